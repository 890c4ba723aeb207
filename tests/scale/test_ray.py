"""Jobs on a local Ray cluster of two nodes: the bits of one machine, whoever dies meanwhile."""

# ruff: noqa: F401, F811 - a fixture is imported here and named as an argument of the tests

from __future__ import annotations

import contextlib
import json
import signal

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray_cluster import MARKS, NODE, ONE, local, matrices, ray

import encoders
import stope
from stope import neighbors
from stope.encoders import encode_corpus
from stope.scale import ray as scale
from stope.scale.plan import Layout
from stope.scale.ray import clusters, pool
from stope.scale.ray import job as jobs_of

pytestmark = MARKS


@pytest.fixture(params=[5])
def shards(request, monkeypatch):
    """Cut every corpus into so many shards, and queries into blocks."""

    def layout(work, *, memory, workers, block_rows):
        rows = block_rows or 300
        blocks, shard_rows = -(-work.queries // rows), -(-work.corpus // request.param)
        return Layout("shards", request.param, shard_rows, blocks, rows, 300 << 20, "so it is")

    monkeypatch.setattr(jobs_of, "layout", layout)
    return request.param


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_topk_of_files_of_all_kinds(local, tmp_path):
    queries, corpus = matrices()
    wanted = stope.topk(queries, corpus, 5)
    for kind in ("npy", "parquet", "jsonl"):
        (tmp_path / kind).mkdir()
    np.save(tmp_path / "q.npy", queries)
    cuts = np.split(corpus, [100, 101])
    for number, part in enumerate(cuts):
        np.save(tmp_path / "npy" / f"{number}.npy", part)
        ids = [f"d{number}-{row}" for row in range(len(part))]
        lists = pa.FixedSizeListArray.from_arrays(part.reshape(-1), part.shape[1])
        pq.write_table(
            pa.table({"_id": ids, "vector": lists}), tmp_path / "parquet" / f"{number}.parquet"
        )
        rows = [{"id": name, "vector": row.tolist()} for name, row in zip(ids, part, strict=True)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "jsonl" / f"{number}.jsonl").write_text(text)
    names = np.array([f"d{n}-{row}" for n, part in enumerate(cuts) for row in range(len(part))])
    tables = [pq.read_table(path) for path in sorted((tmp_path / "parquet").iterdir())]
    sources = {kind: tmp_path / kind for kind in ("npy", "parquet", "jsonl")}
    for kind, source in {**sources, "dataset": ray.data.from_arrow(tables)}.items():
        told = []
        answer = scale.topk(
            tmp_path / "q.npy",
            source,
            5,
            tmp_path / f"of-{kind}",
            cluster=None if kind == "npy" else ONE,
            progress=lambda *progress, told=told: told.append(progress),
        )
        assert np.array_equal(answer.column("scores"), wanted.scores)
        table = answer.table()
        assert table["query_id"].to_pylist() == list(range(1000))
        found = np.array(table["document_ids"].to_pylist())
        assert np.array_equal(found, wanted.ids if kind == "npy" else names[wanted.ids])
        for name in ("document_ids", "scores"):
            assert pa.types.is_fixed_size_list(table[name].type)
        assert told[0] == (0, 1000)
        assert told[-1] == (1000, 1000)
        left = {path.name for path in answer.folder.iterdir()}
        assert left == {"_manifest.json", *(path.name for path in answer.parts)}
    assert pq.read_table(tmp_path / "of-npy").num_rows == 1000  # as any reader of data sets does


@pytest.mark.parametrize("shards", [1, 5], indirect=True)
def test_every_operation_has_the_bits_of_one_machine(local, tmp_path, shards):
    queries, corpus = matrices()
    corpus[500:600] = corpus[:100]
    rng = np.random.default_rng(1)
    never = np.sort(rng.integers(0, 900, (1000, 2)), axis=1)
    never[:, 1] += never[:, 0] == never[:, 1]
    never %= 900
    floor = rng.integers(-5, 5, 1000).astype(np.float32)
    answers = np.array_split(np.sort(rng.choice(900, 1500)), 1000)
    answers = [np.unique(ids) for ids in answers]
    with scale.Operations.at(tmp_path / "jobs", ONE if shards == 1 else None) as remote:
        options = {"exclude": never, "floor": floor, "ceiling": 20.0}
        assert equal(
            remote.topk(queries, corpus, 5, **options), stope.topk(queries, corpus, 5, **options)
        )
        assert equal(
            remote.knn_graph(corpus, 4, metric="cosine"),
            stope.knn_graph(corpus, 4, metric="cosine"),
        )
        for limits in (
            {"relative_margin": 0.05, "exclude": never},
            {"range_counts": "window", "max_score": 0.9, "sampling": "random", "seed": 3},
        ):
            first, second = (
                module.mine_hard_negatives(queries, corpus, answers, 3, **limits)
                for module in (remote, stope)
            )
            assert equal(first[:4], second[:4])
            assert equal(first.rejected.values(), second.rejected.values())
        order = rng.permutation(900)
        first, second = (
            neighbors.deduplicate(corpus, 0.97, order=order, operations=module)
            for module in (remote, stope)
        )
        assert equal([*first[:3], *first.nearest], [*second[:3], *second.nearest])
        assert len(first.kept) < 900
        assert remote.plans[0] == "shards: so it is"


def test_a_stopped_job_goes_on_and_knows_its_data(local, tmp_path, shards, monkeypatch):
    queries, corpus = matrices()

    def stop(done, total):
        if done >= 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scale.topk(queries, corpus, 5, tmp_path / "job", progress=stop)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "job").glob("part-*")}
    assert len(before) >= 2
    assert not json.loads((tmp_path / "job" / "_manifest.json").read_text())["complete"]
    with pytest.raises(ValueError, match=r"queries .*is of a job that is not done; run that"):
        scale.topk(tmp_path / "job", corpus, 5, tmp_path / "other")
    with pytest.raises(ValueError, match=r"is of another job: k \(5, now 6\); name another folder"):
        scale.topk(queries, corpus, 6, tmp_path / "job")
    monkeypatch.undo()  # the layout: the whole corpus now, in the blocks of before
    answer = scale.topk(queries, corpus, 5, tmp_path / "job", cluster=ONE)
    assert {name: (tmp_path / "job" / name).stat().st_mtime_ns for name in before} == before
    assert np.array_equal(answer.column("document_ids"), stope.topk(queries, corpus, 5).ids)
    assert len(answer.workers) == 1
    assert answer.workers[0].peak_bytes > answer.workers[0].own_bytes > 20 << 20
    again = scale.topk(queries, corpus, 5, tmp_path / "job")
    assert again.workers == ()
    answer.parts[1].write_bytes(answer.parts[0].read_bytes())
    with pytest.raises(ValueError, match=r"'part-000001.parquet' is not what was written; remove"):
        scale.topk(queries, corpus, 5, tmp_path / "job")


def test_a_job_refused_for_its_data_begins_anew_when_they_are_right(local, tmp_path):
    queries, corpus = matrices(queries=20)
    broken = corpus.copy()
    broken[700, 2] = np.nan
    for operation, queried in ((scale.topk, [queries]), (scale.kmeans, [])):
        job = tmp_path / operation.__name__
        with pytest.raises(ValueError, match="row 700"):
            operation(*queried, broken, 5, job, cluster=ONE)
        assert len(operation(*queried, corpus, 5, job, cluster=ONE).parts) == 1
    with pytest.raises(ValueError, match=r"is of another job: k \(5, now 6\)"):
        scale.topk(queries, corpus, 6, tmp_path / "topk", cluster=ONE)


def test_errors_are_those_of_one_machine(local, tmp_path):
    queries, corpus = matrices()
    with pytest.raises(FileNotFoundError, match=r"missing.npy"):
        scale.topk(queries, tmp_path / "missing.npy", 5, tmp_path / "job")
    with pytest.raises(FileNotFoundError, match=r"corpus .*has no file that ends in \.npy, "):
        scale.topk(queries, tmp_path, 5, tmp_path / "job")
    (tmp_path / "parts").mkdir()
    np.save(tmp_path / "parts" / "0.npy", corpus)
    np.save(tmp_path / "parts" / "1.npy", corpus[:, :4].copy())
    with pytest.raises(ValueError, match=r"corpus has files that do not go together: .* has dim 8"):
        scale.topk(queries, tmp_path / "parts", 5, tmp_path / "job")
    corpus[700, 2] = np.nan
    np.save(tmp_path / "parts" / "1.npy", corpus)
    with pytest.raises(
        ValueError, match=r"shard .* row 700; .*asked were rows 0 to 999, .*row 900"
    ):
        scale.topk(queries, tmp_path / "parts", 5, tmp_path / "job", ceiling=-100.0)


def test_wrong_arguments_are_refused_before_a_cluster_is_asked(tmp_path):
    queries, corpus = matrices(10, 10)
    for wrong, sentence in (
        ({"k": 0}, "k is 0; it must be at least 1"),
        ({"metric": "cos"}, "metric is 'cos'; give one of"),
        ({"cluster": "auto"}, "cluster is 'auto'; give a stope.scale.ray.Cluster"),
        ({"output": 3}, "output is 3; give a path"),
        ({"progress": 3}, "progress is 3; give a function"),
    ):
        with pytest.raises((TypeError, ValueError), match=sentence):
            scale.topk(
                **{"queries": queries, "corpus": corpus, "k": 1, "output": tmp_path, **wrong}
            )
    remote = scale.Operations(tmp_path, scale.Cluster())
    with pytest.raises(TypeError, match="threshold is 'x'"):
        remote.nearest_earlier(corpus, metric="dot", threshold="x")
    with pytest.raises(ValueError, match="order leaves out row 2"):
        remote.nearest_earlier(np.eye(3, dtype=np.float32), [0, 1, 1])
    with pytest.raises(ValueError, match="metric is 'cos'"):
        remote.pairs_above(queries, corpus, metric="cos", threshold=0.5, sink=print)
    for wrong in ("workers", "memory", "num_cpus"):
        with pytest.raises(ValueError, match=f"{wrong} is 0; it must be at least 1"):
            scale.Cluster(**{wrong: 0})
        with pytest.raises(TypeError, match=f"{wrong} is 'x'"):
            scale.Cluster(**{wrong: "x"})


def test_kmeans_whose_workers_die(local, tmp_path):
    _, corpus = matrices()
    np.save(tmp_path / "a.npy", corpus[:200])
    np.save(tmp_path / "b.npy", corpus[200:])
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    wanted = stope.kmeans(corpus, 9, metric="cosine", seed=3)
    killer = Killer(local, ["", "worker", "", "worker"], "_Actor")
    answer = scale.kmeans(files, 9, tmp_path / "job", metric="cosine", seed=3, progress=killer)
    assert killer.killed.count("worker") == 2
    assert np.array_equal(answer.column("label"), wanted.labels)
    assert np.array_equal(answer.column("score"), wanted.scores)
    with np.load(tmp_path / "job" / "_clusters.npz") as kept:
        assert np.array_equal(kept["centers"], wanted.centers)
        assert np.array_equal(kept["inertia"], wanted.inertia)
        assert kept["converged"] == wanted.converged
    assert answer.table()["id"].to_pylist() == list(range(900))
    with pytest.raises(ValueError, match="k is 901, but x has 900 rows"):
        scale.kmeans(files, 901, tmp_path / "other")
    corpus[700, 1] = np.nan
    with pytest.raises(ValueError, match=r"in row 250; .*counted from row 450 of x on"):
        scale.kmeans(corpus, 9, tmp_path / "broken")


def test_a_stopped_kmeans_goes_on(local, tmp_path):
    _, corpus = matrices()
    np.save(tmp_path / "x.npy", corpus)
    asked = tmp_path / "x.npy", 9, tmp_path / "job"
    kept = tmp_path / "job" / "_clusters.npz"
    wanted = stope.kmeans(corpus, 9)
    assert len(wanted.inertia) > 6
    told = []

    def stop(done, total):
        told.append(done)
        if done >= stop.after:
            raise KeyboardInterrupt

    for passes in (2, 4, 7):  # after the first rows are assigned, and after updates
        stop.after = 900 * passes
        with pytest.raises(KeyboardInterrupt):
            scale.kmeans(*asked, cluster=ONE, progress=stop)
        with np.load(kept) as reached:
            assert len(reached["inertia"]) == max(passes - 2, 0)  # what was under way is done anew
    with pytest.raises(ValueError, match=r"is of another job: seed \(0, now 1\); name another"):
        scale.kmeans(*asked, seed=1, cluster=ONE)
    told.clear()
    stop.after = np.inf
    with scale.Operations.at(tmp_path, None) as remote:  # two workers now
        answer = scale.kmeans(*asked, progress=stop, cluster=remote.cluster)
    assert told[0] == 900 * 6
    made = clusters.clusters_of(answer)
    assert equal(made[:4], wanted[:4])
    assert made.converged == wanted.converged
    assert equal(clusters.clusters_of(scale.kmeans(*asked))[:4], wanted[:4])  # it is done
    np.savez(kept, **{**np.load(kept), "centers": corpus[:9]})
    with pytest.raises(ValueError, match=r"damaged: '_clusters.npz' is not what was written"):
        scale.kmeans(*asked)
    answer.parts[0].unlink()
    manifest = json.loads((tmp_path / "job" / "_manifest.json").read_text())
    (tmp_path / "job" / "_manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    for damaged in (b"PK", b""):
        kept.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"_clusters.npz is damaged \(.*; remove the folder"):
            scale.kmeans(*asked, cluster=ONE)
    with pytest.raises(ValueError, match=r"memory is 1.0 MiB, but a worker needs 256.0 MiB .*1 w"):
        scale.kmeans(*asked[:2], tmp_path / "other", cluster=scale.Cluster(workers=1, memory=2**20))


def test_dedup_of_files(local, tmp_path):
    _, corpus = matrices()
    corpus[500:600] = corpus[:100]
    names = [f"d{row}" for row in range(900)]
    for first in (0, 450):
        rows = slice(first, first + 450)
        vectors = pa.FixedSizeListArray.from_arrays(corpus[rows].reshape(-1), 8)
        table = pa.table({"id": names[rows], "vector": vectors})
        pq.write_table(table, tmp_path / f"{first:03}.parquet")
    wanted = neighbors.deduplicate(corpus, 0.97)
    answer = scale.dedup(tmp_path, 0.97, tmp_path / "job")
    table = answer.table()
    assert table["id"].to_pylist() == names
    assert np.array_equal(np.flatnonzero(table["kept"].to_numpy()), wanted.kept)
    assert table["keeper_id"].to_pylist() == [names[row] for row in wanted.keepers]
    assert np.array_equal(answer.column("score"), wanted.scores)
    assert "; " in answer.plan
    assert not (tmp_path / "job" / "_steps").exists()


def test_encode_then_search(local, tmp_path):
    encoder, docs = (
        encoders.HashEncoder(),
        [f"w{row} w{row % 7} " + "x " * (row % 5) for row in range(70)],
    )
    with pytest.raises(ValueError, match=r"encoder is HashEncoder.*give it a method fingerprint"):
        scale.encode(encoder, docs, tmp_path / "made")
    encoder.fingerprint = lambda: "hash"
    ray.cloudpickle.register_pickle_by_value(encoders)  # workers do not have tests/support
    for number, rows in enumerate((range(40), range(40, 70))):
        lines = [json.dumps({"_id": f"d{row}", "text": docs[row]}) + "\n" for row in rows]
        (tmp_path / f"{number}.jsonl").write_text("".join(lines))
    wanted = encode_corpus(encoder, docs)
    answer = scale.encode(encoder, tmp_path, tmp_path / "made", batch_size=2)
    assert len(answer.parts) == 3
    assert np.array_equal(answer.column("embedding"), wanted)
    assert answer.table()["id"].to_pylist() == [f"d{row}" for row in range(70)]
    for source in (docs, ray.data.from_items([{"text": text} for text in docs])):
        folder = tmp_path / f"of-{type(source).__name__}"
        again = scale.encode(encoder, source, folder, batch_size=16, by_length=False, cluster=ONE)
        assert np.array_equal(again.column("embedding"), wanted)
    best = scale.topk(wanted[:5], tmp_path / "made", 1, tmp_path / "best", metric="cosine")
    ids = stope.topk(wanted[:5], wanted, 1, metric="cosine").ids
    assert best.table()["document_ids"].to_pylist() == [[f"d{row}"] for row in ids[:, 0]]


def test_workers_get_what_is_declared_and_blocks_wait_for_their_turn(local):
    class Asked:
        def part(self, shard, number):
            resources = ray.get_runtime_context().get_assigned_resources()
            return number, stope.get_num_threads(), resources

    told = []

    def tell(number):
        told.append(number)
        return (number,)

    with pool.Pool(scale.Cluster(workers=2), Asked(), 7 << 20) as workers:
        for count, (number, answer, _) in enumerate(workers.answers(range(40), tell), 1):
            assert answer == (number, 1, {"CPU": 1.0, "memory": 7 << 20})
            assert len(told) <= count + 2 * 2  # two at each worker
    assert sorted(told) == [*range(40)]


def test_too_many_workers_are_refused(local, tmp_path):
    queries, corpus = matrices(10, 10)
    with pytest.raises(ValueError, match=r"3 workers with num_cpus=1 and num_gpus=0 do not fit"):
        scale.topk(queries, corpus, 1, tmp_path / "job", cluster=scale.Cluster(workers=3))
    with pytest.raises(
        ValueError, match=r"address is 'elsewhere:1', but this process is connected"
    ):
        scale.topk(queries, corpus, 1, tmp_path / "job", cluster=scale.Cluster("elsewhere:1"))


class Killer:
    """Kills a worker, or a node with all on it, each time the job says how far it is."""

    def __init__(self, local, deaths, kind="_Worker"):
        self.local, self.deaths, self.kind, self.killed, self.told = local, [*deaths], kind, [], []

    def __call__(self, done, total):
        self.told.append(done)
        if not self.deaths:
            return
        nodes = [node for node in self.local.list_all_nodes() if not node.head]
        workers = [worker for node in nodes for worker in self.workers_of(node)]
        if self.deaths[0].endswith(("worker", "workers")) and not workers:
            return  # one is just starting
        kind = self.deaths.pop(0)
        if kind == "node":
            self.local.remove_node(nodes[0], allow_graceful=False)
        elif kind == "new node":
            self.local.add_node(**NODE)
        elif kind:
            for worker in workers[: None if kind == "all workers" else 1]:
                worker.send_signal(signal.SIGKILL)
        self.killed.append(kind)

    def workers_of(self, node):
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for child in raylet.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                if self.kind in " ".join(child.cmdline()):
                    yield child


def test_deaths_change_nothing(local, tmp_path, shards):
    queries, corpus = matrices(queries=3000)
    killer = Killer(local, ["", "worker", "node", "new node", "worker", "all workers"])
    answer = scale.topk(queries, corpus, 5, tmp_path / "job", progress=killer)
    assert not killer.deaths
    wanted = stope.topk(queries, corpus, 5)
    assert np.array_equal(answer.column("document_ids"), wanted.ids)
    assert np.array_equal(answer.column("scores"), wanted.scores)
    assert sorted(killer.told) == killer.told
    assert killer.told[-1] == 3000
