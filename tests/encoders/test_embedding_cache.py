"""Fingerprints of encoders, and embeddings that a cache may return: never stale, never half."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from encoders import Counting, numbered
from stope.data import Pairs
from stope.encoders import EmbeddingCache, fingerprint_encoder
from stope.mining import mine

# --- fingerprints ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def static_model():
    """A small sentence-transformers model with a trained tokenizer, made anew by each call."""
    library = pytest.importorskip("sentence_transformers", reason="needs the extra train")
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra train")
    torch = pytest.importorskip("torch", reason="needs the extra train")

    def build(words=("ore", "rock", "sea"), prompts=None):
        vocabulary = {word: place for place, word in enumerate(["[UNK]", *words])}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        weights = torch.arange(len(vocabulary) * 4, dtype=torch.float32).reshape(-1, 4) / 7
        try:
            from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        except ImportError:
            from sentence_transformers.models import StaticEmbedding
        module = StaticEmbedding(tokenizer, embedding_weights=weights.numpy())
        return library.SentenceTransformer(modules=[module], prompts=prompts, device="cpu")

    return build


def test_equal_models_have_equal_fingerprints(static_model):
    assert fingerprint_encoder(static_model()) == fingerprint_encoder(static_model())


def test_encoding_leaves_the_fingerprint_alone(static_model):
    model = static_model()
    before = fingerprint_encoder(model)
    model.encode(["ore and rock"] * 3)
    assert fingerprint_encoder(model) == before


def test_the_state_of_a_transformers_tokenizer_is_no_part_of_it(static_model):
    torch = pytest.importorskip("torch", reason="needs the extra train")
    transformers = pytest.importorskip("transformers", reason="needs the extra train")
    module = torch.nn.Linear(2, 2)
    module.tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=static_model().tokenizer, pad_token="[UNK]", unk_token="[UNK]"
    )
    before = fingerprint_encoder(module)
    module.tokenizer(["ore rock", "sea"], padding=True, truncation=True, max_length=1)
    assert fingerprint_encoder(module) == before
    module.tokenizer.add_tokens(["sky"])
    assert fingerprint_encoder(module) != before


def test_whatever_changes_the_output_changes_the_fingerprint(static_model):
    torch = pytest.importorskip("torch", reason="needs the extra train")
    prints = [fingerprint_encoder(static_model())]
    trained = static_model()
    with torch.no_grad():
        next(trained.parameters())[2, 1] += 1e-6
    prints.append(fingerprint_encoder(trained))
    prints.append(fingerprint_encoder(static_model(words=("rock", "ore", "sea"))))
    prints.append(fingerprint_encoder(static_model(prompts={"query": "find: "})))
    half = static_model().half()
    prints.append(fingerprint_encoder(half))
    short = static_model()
    short.truncate_dim = 2
    prints.append(fingerprint_encoder(short))
    cut = static_model()
    cut.tokenizer.enable_truncation(2)
    prints.append(fingerprint_encoder(cut))
    for dtype in (torch.float16, torch.bfloat16):  # of equal bytes
        empty = static_model().to(dtype)
        with torch.no_grad():
            next(empty.parameters()).zero_()
        prints.append(fingerprint_encoder(empty))
    assert len(set(prints)) == len(prints)


def test_a_saved_model_keeps_its_fingerprint(static_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = static_model()
    model.save_pretrained(str(tmp_path / "model"))
    again = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert fingerprint_encoder(again) == fingerprint_encoder(model)


def test_an_encoder_that_cannot_be_read_is_refused(tmp_path):
    class Opaque:
        def encode(self, texts):
            return np.ones((len(texts), 2), np.float32)

    with pytest.raises(ValueError, match=r"Opaque, which has no weights .* fingerprint\(\) -> str"):
        EmbeddingCache(tmp_path).embeddings(Opaque(), ["a"], role="query")


# --- cache -------------------------------------------------------------------------------------


def ask(cache, encoder, texts, role="corpus", **options):
    before = len(encoder.asked)
    rows = cache.embeddings(encoder, texts, role=role, **options)
    return rows, len(encoder.asked) - before


def test_the_second_time_nothing_is_encoded(tmp_path):
    encoder, texts = Counting(), numbered(25)
    cache = EmbeddingCache(tmp_path / "new" / "cache", shard_size=10)
    first, asked = ask(cache, encoder, texts)
    assert asked == 25
    second, asked = ask(EmbeddingCache(tmp_path / "new" / "cache"), Counting(), texts)
    assert asked == 0
    assert (first == second).all()
    assert (first == Counting().encode(texts)).all()
    assert not second.flags.writeable
    stored = next((tmp_path / "new" / "cache").glob("corpus-*/embeddings.npy"))
    assert (np.load(stored) == first).all()


@pytest.mark.parametrize(
    "change", ["weights", "dim", "texts", "order", "role", "prompt", "joined texts"]
)
def test_any_change_is_encoded_anew(tmp_path, change):
    cache, texts = EmbeddingCache(tmp_path), ["ab", "c", "d"]
    ask(cache, Counting(), texts)
    encoder, role, prompt = Counting(), "corpus", None
    if change == "weights":
        encoder = Counting(scale=2.0)
    elif change == "dim":
        encoder = Counting(dim=9)
    elif change == "texts":
        texts = ["ab", "c", "e"]
    elif change == "order":
        texts = ["c", "ab", "d"]
    elif change == "role":
        role = "query"
    elif change == "prompt":
        prompt = "p"
    else:
        texts = ["a", "bc", "d"]
    rows, asked = ask(cache, encoder, texts, role=role, prompt=prompt)
    assert asked == 3
    assert (rows == encoder.encode([(prompt or "") + text for text in texts])).all()


def stops(after):
    """An encoder that is stopped after a number of texts, as by a machine switched off."""

    def before(count):
        if count > after:
            raise KeyboardInterrupt

    return Counting(before=before)


@pytest.mark.parametrize("after", [0, 9, 10, 15, 20, 29])
def test_a_stopped_run_goes_on_after_its_last_shard(tmp_path, after):
    texts, cache = numbered(30), EmbeddingCache(tmp_path, shard_size=10)
    with pytest.raises(KeyboardInterrupt):
        cache.embeddings(stops(after), texts, role="corpus", batch_size=5)
    assert not list(tmp_path.glob("*/embeddings.npy"))
    seen = []
    rows, asked = ask(
        EmbeddingCache(tmp_path, shard_size=7),
        Counting(),
        texts,
        progress=lambda *step: seen.append(step),
    )
    assert asked == 30 - after // 10 * 10
    assert (rows == Counting().encode(texts)).all()
    assert seen[-1] == (30, 30)
    assert not list(tmp_path.glob("*/embeddings.partial"))


def test_a_crash_between_data_and_manifest_is_repaired(tmp_path):
    texts, cache = numbered(30), EmbeddingCache(tmp_path, shard_size=10)
    with pytest.raises(KeyboardInterrupt):
        cache.embeddings(stops(20), texts, role="corpus", batch_size=10)
    partial = next(tmp_path.glob("*/embeddings.partial"))
    with partial.open("ab") as file:
        file.write(b"half a shard")
    rows, asked = ask(cache, Counting(), texts)
    assert asked == 10
    assert (rows == Counting().encode(texts)).all()


def test_a_damaged_shard_is_encoded_again(tmp_path):
    texts, cache = numbered(30), EmbeddingCache(tmp_path, shard_size=10)
    with pytest.raises(KeyboardInterrupt):
        cache.embeddings(stops(20), texts, role="corpus", batch_size=10)
    partial = next(tmp_path.glob("*/embeddings.partial"))
    data = bytearray(partial.read_bytes())
    data[-3] ^= 1
    partial.write_bytes(data)
    rows, asked = ask(cache, Counting(), texts)
    assert asked == 20
    assert (rows == Counting().encode(texts)).all()


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone", "header"])
def test_an_altered_file_is_refused(tmp_path, damage):
    texts, cache = numbered(30), EmbeddingCache(tmp_path, shard_size=10)
    ask(cache, Counting(), texts)
    stored = next(tmp_path.glob("*/embeddings.npy"))
    data = bytearray(stored.read_bytes())
    if damage == "gone":
        stored.unlink()
    else:
        if damage == "flip":
            data[-1] ^= 1
        elif damage == "header":
            data[12] ^= 1
        stored.write_bytes({"cut": data[:-8], "longer": data + b"1234"}.get(damage, data))
    with pytest.raises(ValueError, match=r"missing, truncated or altered.*remove the folder"):
        cache.embeddings(Counting(), texts, role="corpus")


@pytest.mark.parametrize("damage", ["text", "key", "version", "unknown"])
def test_an_altered_manifest_is_refused(tmp_path, damage):
    texts, cache = numbered(5), EmbeddingCache(tmp_path)
    ask(cache, Counting(), texts)
    manifest = next(tmp_path.glob("*/manifest.json"))
    content = json.loads(manifest.read_text())
    content.update(
        {"key": {"key": "0"}, "version": {"version": 2}, "unknown": {"new": 1}}.get(damage, {})
    )
    manifest.write_text("{" if damage == "text" else json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json .* remove the folder"):
        cache.embeddings(Counting(), texts, role="corpus")


def test_a_disk_without_locks_is_not_taken_for_another_process(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks available"):
        EmbeddingCache(tmp_path).embeddings(Counting(), ["a"], role="corpus")


def test_every_shard_is_as_wide_as_the_first(tmp_path):
    class Wider:
        def fingerprint(self):
            return "wider"

        def encode(self, texts, **options):
            return np.ones((len(texts), 4 if "text 0" in texts[0] else 5), np.float32)

    cache = EmbeddingCache(tmp_path, shard_size=2)
    with pytest.raises(ValueError, match="rows from 2 on have 5 columns but those before 4"):
        cache.embeddings(Wider(), [f"text {row}" for row in range(4)], role="corpus")


@pytest.mark.parametrize(("shard_size", "left"), [(20, 60), (100, 100)])
def test_a_full_disk_keeps_what_was_saved(tmp_path, python, shard_size, left):
    code = """
        import resource, sys
        sys.path.insert(0, {tests!r})
        from encoders import Counting, numbered
        from stope.mining import EmbeddingCache
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            cache = EmbeddingCache({folder!r}, shard_size={shard_size})
            cache.embeddings(Counting(), numbered(100), role="corpus")
        except OSError as error:
            print(error)
    """
    tests = str(Path(__file__).parents[1] / "support")
    done = python(code.format(tests=tests, folder=str(tmp_path), shard_size=shard_size))
    assert done.returncode == 0, done.stderr
    assert "the shards saved before are kept" in done.stdout
    assert "File too large" in done.stdout
    rows, asked = ask(EmbeddingCache(tmp_path), Counting(), numbered(100))
    assert asked == left  # 128 bytes of header and 2 shards of 640 fit into 2000
    assert (rows == Counting().encode(numbered(100))).all()


def test_two_processes_do_not_mix(tmp_path):
    texts = numbered(4)

    def another_process(_):
        with pytest.raises(RuntimeError, match="Another process or thread is filling"):
            EmbeddingCache(tmp_path).embeddings(Counting(), texts, role="corpus")

    rows, asked = ask(EmbeddingCache(tmp_path), Counting(before=another_process), texts)
    assert asked == 4
    assert (rows == Counting().encode(texts)).all()


def test_mining_through_a_cache_changes_nothing(tmp_path):
    pairs = Pairs.from_texts(numbered(20, "query"), numbered(20))
    direct = mine(pairs, Counting())
    encoder = Counting()
    for _ in range(2):
        cached = mine(pairs, encoder, cache=tmp_path)
        assert (cached.result.ids == direct.result.ids).all()
        assert (cached.result.scores == direct.result.scores).all()
    assert len(encoder.asked) == 40


def test_a_cache_in_a_moved_folder_still_serves(tmp_path):
    ask(EmbeddingCache(tmp_path / "a"), Counting(), ["x"])
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert ask(EmbeddingCache(tmp_path / "b"), Counting(), ["x"])[1] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": "abc"}, "texts is one string"),
        ({"texts": [1]}, r"texts\[0\] is int, not a string"),
        ({"texts": None}, "texts is None"),
        ({"role": 3}, "role is 3; give one of 'query', 'corpus'"),
        ({"prompt": 3}, "prompt is 3; give a text, or None"),
        ({"progress": 3}, "progress is 3"),
        ({"batch_size": 2.0}, "batch_size is 2.0; give an integer"),
    ],
)
def test_wrong_kinds_are_sentences(tmp_path, change, message):
    arguments = {"texts": ["a"], "role": "corpus", **change}
    with pytest.raises(TypeError, match=message):
        EmbeddingCache(tmp_path).embeddings(Counting(), **arguments)
    with pytest.raises(TypeError, match="folder is None; give a path"):
        EmbeddingCache(None)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        EmbeddingCache(tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": [], "role": "corpus"}, "texts is empty"),
        ({"texts": ["a"], "role": "document"}, "role is 'document'"),
    ],
)
def test_the_cache_refuses(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingCache(tmp_path).embeddings(Counting(), **arguments)
    with pytest.raises(ValueError, match="shard_size is 0"):
        EmbeddingCache(tmp_path, shard_size=0)
