"""The page in Chromium: from the disk, without a network, with any text, on any screen."""

from __future__ import annotations

import json
import time

import pytest

pytest.importorskip("vl_convert", reason="needs the extra report")
from browser import chromium, opened, prefer, resize, seconds_of
from test_pages import EVIL, EVIL_ID, a_page, every_kind

from stope.data import Pairs, read_exclusions
from stope.report import Page
from stope.report.figures import visible
from stope.report.pages import Column, Section, Table

pytestmark = pytest.mark.browser
ROWS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def driver(folder):
    with chromium(folder) as driver:
        yield driver


@pytest.fixture
def page(driver, folder):
    """The page of test_pages, freshly opened."""
    path = folder / "report.html"
    if not path.exists():
        a_page(every_kind(), ROWS).write(path)
    driver.get_log("browser")
    driver.get_log("performance")
    resize(driver, 1280, 900)
    opened(driver, path)
    return driver


def until(holds):
    """Wait until it does: a busy machine takes seconds to draw or to save."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def script(driver, code, *arguments):
    return driver.execute_script(f"return {code}", *arguments)


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def choose(driver, selector, word):
    from selenium.webdriver.support.ui import Select

    Select(all_of(driver, selector)[0]).select_by_visible_text(word)


def typed(driver, text):
    box = all_of(driver, "[data-table] input[type=search]")[0]
    box.clear()
    box.send_keys(text)
    return [row.text for row in all_of(driver, "[data-table] tbody tr")]


def status(driver):
    return all_of(driver, "[role=status]")[0].text


def test_it_opens_from_the_disk_asks_nothing_and_breaks_no_rule(page):
    asked = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = {
        each["params"]["request"]["url"]
        for each in asked
        if each["method"] == "Network.requestWillBeSent"
    }
    assert len(urls) == 1
    assert urls.pop().startswith("file://")
    complaints = [e for e in page.get_log("browser") if e["level"] == "SEVERE"]
    assert complaints == []
    assert len(all_of(page, ".figure svg")) == 5
    # What the policy forbids does not happen, even if a script in the page asked for it.
    assert (
        script(page, "fetch('https://example.org/').then(() => 'sent', () => 'refused')")
        == "refused"
    )
    assert any("Content Security Policy" in e["message"] for e in page.get_log("browser"))


def test_text_of_data_is_text(page):
    assert page.title.startswith("Report </script><img")  # it would be "caught"
    assert script(page, "document.images.length") == 0
    assert script(page, "document.querySelectorAll('b').length") == 0
    shown = EVIL.replace("\u2028", r"\u2028").replace("\u202e", r"\u202e")
    shown = shown.replace("\0", r"\u0000").replace("\ud800", r"\ud800")
    cell = script(page, "document.querySelector('[data-table] td.text').textContent")
    assert cell == f"q0 {shown.removesuffix(chr(92) + 'ud800')}"
    assert shown in script(page, "document.querySelector('h1').textContent")
    drawn = script(page, "[...document.querySelectorAll('svg')].map((e) => e.textContent).join()")
    assert r"</script><img" in drawn
    assert "\u202e" not in drawn


def test_ids_filters_and_long_texts_are_text_and_rows_of_one_id_are_saved_once(driver, folder):
    long = EVIL_ID + " ore" * 100
    ids = [f"d{row // 2} {EVIL_ID}" for row in range(ROWS)]
    columns = (
        Column("document", [long] * ROWS),
        Column("document id", ids, "id"),
        Column("why", [EVIL_ID, "near"] * (ROWS // 2), "word"),
    )
    export = {"document_id": "document id"}
    table = Table(columns, "Evil", browse=True, export=export, export_name="evil.jsonl")
    opened(driver, Page("Evil", "", [Section("Rows", table=table)]).write(folder / "evil.html"))
    assert all_of(driver, "[data-table] tbody small")[0].text == visible(ids[0])
    options = [each.text for each in all_of(driver, "[data-table] option")]
    assert options == ["all", visible(EVIL_ID), "near"]
    cell = "document.querySelector('[data-table] td.text').firstChild.textContent"
    assert script(driver, cell) == visible(long)[:240] + "… "
    more = all_of(driver, "[data-table] .more")[0]
    more.click()
    assert script(driver, cell) == visible(long) + " "
    more.click()
    assert script(driver, cell) == visible(long)[:240] + "… "
    assert script(driver, "document.querySelectorAll('img, td b').length") == 0
    assert driver.title == "Evil"
    all_of(driver, "[data-table] thead input")[0].click()
    assert status(driver) == f"{ROWS} rows, {ROWS} selected"  # those of all pages
    assert saved(driver, folder / "evil.jsonl") == [{"document_id": name} for name in ids[::2]]


def test_search_and_filters_let_through_what_holds_the_words(page):
    assert status(page) == f"{ROWS} rows, 0 selected"
    rows = typed(page, "D7")
    assert len(rows) == 1
    assert "d7" in rows[0]
    assert status(page) == f"1 of {ROWS} rows, 0 selected"
    assert len(typed(page, "q15 d30")) == 1  # each word in any column
    assert typed(page, "q15 d9") == []
    typed(page, " ")
    choice = all_of(page, "[data-table] select")[0]
    assert [option.text for option in choice.find_elements("css selector", "option")] == [
        "all",
        "above",
        "near",
    ]
    choose(page, "[data-table] select", "above")
    assert status(page) == f"{ROWS // 3} of {ROWS} rows, 0 selected"
    choose(page, "[data-table] select", "near")
    assert status(page) == f"{2 * ROWS // 3} of {ROWS} rows, 0 selected"
    all_of(page, ".pager button")[1].click()
    assert " d1 " in typed(page, "d1")[0]  # from the first page on
    typed(page, " ")
    choose(page, "[data-table] select", "all")
    assert status(page) == f"{ROWS} rows, 0 selected"


def first_cells(driver, name):
    cells = all_of(driver, f"[data-table] td[data-name='{name}']")
    return [cell.text for cell in cells]


def test_columns_sort_both_ways_and_what_is_empty_stays_last(page):
    head = {button.text.split()[0]: button for button in all_of(page, "[data-table] th button")}
    for direction in ("ascending", "descending"):
        head["score"].click()
        assert script(page, "document.querySelector('th[aria-sort]').ariaSort") == direction
        numbers = [float(text) for text in first_cells(page, "score")]
        assert len(numbers) == 25
        assert numbers == sorted(numbers, reverse=direction == "descending")
    for _ in range(2):
        all_of(page, ".pager button")[1].click()
    assert first_cells(page, "score")[-1] == ""
    assert all_of(page, ".pager .note")[0].text == "Page 3 of 3"
    head["document"].click()
    assert first_cells(page, "document") == sorted(f"d{row}" for row in range(ROWS))[:25]


def saved(driver, path):
    """The rows of the file that a click on the button saves."""
    path.unlink(missing_ok=True)
    save = next(b for b in all_of(driver, "[data-table] button") if b.text == "Save selected ids")
    save.click()
    until(lambda: path.exists())
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_selected_ids_are_saved_as_exclude_takes_them(page, folder):
    save = next(b for b in all_of(page, "[data-table] button") if b.text == "Save selected ids")
    assert not save.is_enabled()
    marks = all_of(page, "[data-table] tbody input")
    marks[0].click()
    marks[3].click()
    typed(page, "d59")
    all_of(page, "[data-table] thead input")[0].click()  # all that are shown
    assert status(page) == f"1 of {ROWS} rows, 3 selected"
    typed(page, " ")
    button = next(b for b in all_of(page, "[data-table] th button") if b.text.startswith("score"))
    for _ in range(2):
        button.click()  # whatever the order on the screen is
    only = all_of(page, "[data-table] .tools label input[type=checkbox]")[0]
    only.click()
    assert status(page) == f"3 of {ROWS} rows, 3 selected"
    assert first_cells(page, "document") == ["d3", "d59", "d0"]
    only.click()
    rows = saved(page, folder / "exclude.jsonl")
    assert [row["document_id"] for row in rows] == ["d0", "d3", "d59"]
    # ... and are read again, whatever the ids are.
    ids = [f"q{n} {EVIL_ID}" for n in range(ROWS // 2)], [f"d{n}" for n in range(ROWS)]
    texts = [f"text {n}" for n in range(ROWS)]
    pairs = Pairs.from_texts(
        texts[: ROWS // 2], texts[: ROWS // 2], texts, query_ids=ids[0], corpus_ids=ids[1]
    )
    excluded = read_exclusions(folder / "exclude.jsonl", pairs).queries
    assert [rows.tolist() for rows in excluded.rows() if len(rows)] == [[0], [3], [59]]
    assert [row["query_id"] for row in rows] == [f"q{n} {EVIL_ID}" for n in (0, 1, 29)]


def test_the_keyboard_goes_everywhere(page):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(page).send_keys(*keys).perform()

    def focused(property):
        return script(page, f"document.activeElement.{property}")

    press(Keys.TAB)
    assert focused("textContent") == "Skip to the content"
    press(Keys.ENTER)
    assert script(page, "location.hash") == "#main"
    all_of(page, "[data-table] tbody input")[24].send_keys(Keys.SPACE)
    assert status(page).endswith("1 selected")
    press(Keys.ARROW_DOWN)  # over the end of a page
    assert focused("dataset.row") == "25"
    press(Keys.ARROW_UP)
    assert focused("dataset.row") == "24"
    press(Keys.PAGE_DOWN, Keys.PAGE_DOWN, Keys.PAGE_DOWN)
    assert focused("dataset.row") == "50"
    order = script(
        page,
        "[...document.querySelectorAll('a, button, input, select, summary, [tabindex]')]"
        ".every((e) => e.tabIndex >= -1 && e.tabIndex <= 0)",
    )
    assert order  # the order of the page is that of the keys
    named = script(
        page,
        "[...document.querySelectorAll('button, input, select, [role=img], [role=region]')]"
        ".filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels && e.labels.length))"
        ".map((e) => e.outerHTML)",
    )
    assert named == []


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_screen_makes_the_page_scroll_sideways(page, width):
    resize(page, width, 844)
    figures = "[...document.querySelectorAll('.figure svg')]"
    ends = figures + ".map((e) => e.getBoundingClientRect().right)"
    until(lambda: max(script(page, ends)) <= width)  # figures take the new width
    assert script(page, "document.documentElement.scrollWidth") <= width


def test_themes_follow_the_system_or_the_choice(page):
    paper = "getComputedStyle(document.body).backgroundColor"
    bar = "getComputedStyle(document.querySelector('.figure .mark-rect path')).fill"
    dark, light = "rgb(20, 23, 27)", "rgb(255, 255, 255)"
    prefer(page, "dark")
    assert script(page, paper) == dark
    in_dark = script(page, bar)
    choose(page, "#theme", "light")
    assert script(page, paper) == light
    assert script(page, bar) != in_dark  # figures are of the theme without another drawing
    prefer(page, "light")
    choose(page, "#theme", "dark")
    assert script(page, paper) == dark
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert script(page, paper) == light  # paper is white, and what acts is not on it
    assert not all_of(page, "[data-table] input[type=search]")[0].is_displayed()
    prefer(page, "light")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_fifty_thousand_rows_open_in_under_two_seconds(driver, folder):
    """Of processor time: others use the machine, too. docs/guides/report.md has the clock's."""
    path = a_page(every_kind(), 49_998).write(folder / "many.html")
    resize(driver, 1280, 900)
    tables, ready = opened(driver, path)
    assert 0 < tables <= ready
    before = seconds_of(driver)
    assert 0 < before < 2
    assert status(driver) == "49,998 rows, 0 selected"
    assert len(typed(driver, "d49997")) == 1
    assert seconds_of(driver) - before < 2


def test_pages_of_runs_and_trainings_are_drawn_whole(driver, folder):
    pytest.importorskip("ir_measures", reason="needs the extra retrieval")
    pytest.importorskip("transformers", reason="needs the extra train")
    from test_training_page import a_log, a_report

    from stope.report import of_run
    from stope.report.training import of_training

    qrels = {f"q{n}": {f"d{n}": 1} for n in range(40)}
    runs = [{q: {f"d{n}": float((n * k) % 41) for n in range(40)} for q in qrels} for k in (3, 5)]
    queries = {query: f"{query} {EVIL}" for query in qrels}
    names = ("a run of a long name.trec", EVIL)
    run = of_run(runs[0], qrels, runs[1], names=names, queries=queries)
    a_report(a_log(folder / "model.run", 50))
    for page in (run, of_training(folder / "model.run")):
        driver.get_log("browser")
        resize(driver, 390, 844)
        opened(driver, page.write(folder / "another.html"))
        assert len(all_of(driver, ".figure svg")) == len(page.figures) > 2
        assert script(driver, "document.documentElement.scrollWidth") <= 390
        assert not [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    opened(driver, run.write(folder / "another.html"))
    lowest = run.sections[-1].table
    assert all_of(driver, "[data-table] tbody tr")[0].text.find(lowest.columns[1].values[0]) >= 0
    assert status(driver) == "40 rows, 0 selected"
