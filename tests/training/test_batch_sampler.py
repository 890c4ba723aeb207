"""Plans in sentence-transformers' trainer and in accelerate's wrappers: same length everywhere."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra train")
datasets = pytest.importorskip("datasets", reason="needs the extra train")
data_loader = pytest.importorskip("accelerate.data_loader", reason="needs the extra train")

import sentence_transformers
from small_transformers import texts, tiny

from stope.encoders.versions import part
from stope.training.batches import (
    Clustered,
    Distinct,
    Homogeneous,
    Mixed,
    RowNumbers,
    batch_sampler,
)


def dataset(rows=101, sources=2):
    queries = [f"q{i % (rows - 5)}" for i in range(rows)]
    source = [f"s{i % sources}" for i in range(rows)]
    positives = [f"d{i % (rows - 9)}" for i in range(rows)]
    columns = {"weight": [1.0] * rows, "query": queries, "positive": positives, "source": source}
    return datasets.Dataset.from_dict(columns)


SPECS = [Distinct(), Homogeneous(), Mixed(0.5), Mixed(0.5, homogeneous=False), Clustered(4)]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_process_takes_as_many_batches(spec, processes):
    """As accelerate wraps a sampler for each process, with sentence-transformers' even_batches."""
    rows = dataset()
    embeddings = np.random.default_rng(0).standard_normal((len(rows), 4)).astype(np.float32)
    make = batch_sampler(spec, embeddings=embeddings, processes=processes)
    samplers = [make(rows, 8, False, seed=3) for _ in range(processes)]
    shards = [
        data_loader.BatchSamplerShard(sampler, processes, rank, even_batches=False)
        for rank, sampler in enumerate(samplers)
    ]
    for epoch in range(4):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        taken = [list(shard) for shard in shards]
        assert {len(batches) for batches in taken} == {len(shards[0])}
        assert len(shards[0]) * processes == len(samplers[0])
        together = [batch for step in zip(*taken, strict=True) for batch in step]
        assert together == samplers[0].plan.batches(epoch)
        for step in zip(*taken, strict=True):
            if getattr(spec, "homogeneous", isinstance(spec, Homogeneous)):
                assert len({rows[row]["source"] for batch in step for row in batch}) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_skipping_goes_on_in_the_same_plan(processes):
    """Resume: the loader of an epoch, without its first batches, in a fresh process."""
    from accelerate.utils import set_seed

    import torch

    set_seed(0)
    rows = dataset()

    def loader():
        sampler = batch_sampler(processes=processes)(rows, 8, False, seed=3)
        plain = torch.utils.data.DataLoader(
            range(len(rows)), batch_sampler=sampler, collate_fn=list
        )
        wrapped = data_loader.prepare_data_loader(
            plain, num_processes=processes, process_index=processes - 1, put_on_device=False,
            even_batches=False,
        )  # fmt: skip
        return wrapped, sampler

    whole, sampler = loader()
    for epoch in range(3):
        whole.set_epoch(epoch)
        found = list(whole)
        assert found == sampler.plan.batches(epoch)[processes - 1 :: processes]
    resumed = data_loader.skip_first_batches(loader()[0], 2)
    resumed.set_epoch(2)
    for wrapper in (resumed.batch_sampler, resumed.batch_sampler.batch_sampler):
        getattr(getattr(wrapper, "batch_sampler", None), "set_epoch", lambda epoch: None)(2)
    assert list(resumed) == found[2:]


def test_the_trainer_follows_the_plan(tmp_path):
    """Two epochs of real steps: what arrives in the loss is the plan, batch by batch."""
    rows = 30
    queries, positives = texts(0, rows), texts(1, rows)
    data = datasets.Dataset.from_dict({"query": queries, "positive": positives})
    model = tiny(tmp_path / "model")
    seen = []

    class Loss(part("losses").MultipleNegativesRankingLoss):
        def forward(self, features, labels=None):
            seen.append(next(column["input_ids"].clone() for column in features))
            return super().forward(features, labels)

    arguments = sentence_transformers.SentenceTransformerTrainingArguments(
        output_dir=tmp_path, per_device_train_batch_size=8, num_train_epochs=2, seed=5,
        batch_sampler=batch_sampler(), report_to="none", save_strategy="no", disable_tqdm=True,
        use_cpu=True,
    )  # fmt: skip
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=Loss(model)
    )
    state = trainer.train()
    table = RowNumbers.from_texts(queries, positives)
    plan = Distinct().plan(table, 8, 5)
    assert state.global_step == 2 * plan.num_batches == len(seen) == 8
    tokenize = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    expected = [
        tokenize([queries[row] for row in batch])["input_ids"]
        for epoch in range(2)
        for batch in plan.batches(epoch)
    ]
    for found, wanted in zip(seen, expected, strict=True):
        assert found.tolist() == wanted.tolist()


def test_columns_that_are_no_texts_are_passed_over():
    rows = dataset(20)
    sampler = batch_sampler()(rows, 10, False, seed=1)
    known = RowNumbers.from_texts(rows["query"], rows["positive"])
    assert list(sampler) == Distinct().plan(known, 10, 1).batches(0)


def test_bad_input_gets_a_sentence():
    table = RowNumbers(np.arange(3), np.arange(3))
    with pytest.raises(ValueError, match="table has 3 rows but the dataset 20"):
        batch_sampler(table=table)(dataset(20), 8, False)
    one = datasets.Dataset.from_dict({"query": ["a"], "weight": [1.0]})
    with pytest.raises(ValueError, match=r"the text columns \['query'\]"):
        batch_sampler()(one, 8, False)
    with pytest.raises(ValueError, match="one for each process"):
        batch_sampler(processes=40)(dataset(20), 8, False)
