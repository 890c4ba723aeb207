"""A configuration with every section explained, which works as it is on one's own two files."""

EXAMPLE = """\
# A training run of stope: stope train config.yaml
# Killed or interrupted, it goes on with: stope train config.yaml --resume
# One value for once: stope train config.yaml --set training.epochs=3
# Paths count from the folder in which the command runs.

data:                     # one source, or a list of them (- path: ...)
  path: pairs.tsv         # queries with positives: .jsonl .tsv .csv .parquet; or a BEIR folder
  corpus: corpus.jsonl    # documents to find negatives in; leave away for a BEIR folder
  # name: help            # prompts and batches of several sources go by it
  # split: train          # of a BEIR folder
  # query_column: question    # where the usual names do not hold; also positive_column,
  #                             text_column, id_column; positive_ids: true where they are ids
  # weight: weight        # column of weights; signals: [easiness] are numbers a weighting reads
  # pairs_from: crops     # make the pairs from raw text at path

encoder:                  # a static encoder from scratch, or any sentence-transformers model
  static: {dim: 512}
  # model: sentence-transformers/all-MiniLM-L6-v2
  # max_tokens: 128
  # lora: {rank: 16, alpha: 32}         # needs pip install "stope[lora]"

loss:
  temperature: 0.05
  # precision: bfloat16   # faster where the processor has AMX
  # mini_batch_size: 32   # large batches of a transformer in little memory
  # matryoshka_dims: [256, 128, 64]

# weighting:              # which pairs count more while training proceeds; see stope.weighting
#   name: progressive     # easy ones first, hard ones later
#   first: -0.5
#   last: 0.5

# negatives:              # hard negatives, mined with the model itself while it trains
#   mode: periodic
#   every_epochs: 1
#   num_negatives: 5
#   relative_margin: 0.05 # a negative stays 5% below the positive's score
#   across_sources: true  # in the documents of all sources, not of the query's own alone

# batches: distinct       # or homogeneous, clustered, mixed

# prompts: {query: "query: ", document: "passage: "}

training:
  epochs: 5
  # batch_size: 1024      # what is not given is chosen to suit encoder and data
  # learning_rate: 0.1    # about 0.1 for a static encoder, 2e-5 for a transformer
  # warmup: 0.1
  # scheduler: linear     # cosine, constant
  # autocast: bfloat16
  seed: 0

evaluation:               # judged before training and after every epoch
  holdout: 0.1            # this share of the queries is held out; or name them instead:
  # path: test.tsv        # pairs file (with corpus:) or BEIR folder
  # split: dev
  # test_split: test      # judged before and after only
  metrics: [nDCG@10, R@100]
  keep: best              # the weights of the best evaluation; last: of the last step
  # every: 500            # steps
  # patience: 3           # stop after so many evaluations without gain

output:
  folder: run             # config.yaml, log.jsonl, checkpoints/, report.json, model/
  # checkpoint_every: 500
  # keep_checkpoints: 2
  # tensorboard: true     # needs pip install "stope[log]"
"""
