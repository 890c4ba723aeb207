"""Texts and a transformer small enough to train in a test."""

from __future__ import annotations

import numpy as np
import sentence_transformers

import torch
from stope.encoders.versions import part

WORDS = [f"w{i}" for i in range(60)]
ROWS = 12


def texts(seed, rows=ROWS):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(2, 9))) for _ in range(rows)]


def tiny(folder, seed=0, dropout=0.0, words=WORDS, layers=1):
    """A transformer with random weights: one layer or more, 16 dimensions."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=32, **names).save_pretrained(
        folder
    )
    parts = part("models")
    modules = [parts.Transformer(str(folder), max_seq_length=16), parts.Pooling(16)]
    return sentence_transformers.SentenceTransformer(modules=modules, device="cpu")


def cross_encoder(folder, seed=0, labels=1):
    """A cross-encoder of the same size, also in this folder as transformers writes it."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tiny(folder, words=[*(f"w{i}" for i in range(40)), "why"])
    config = BertConfig.from_pretrained(folder, num_labels=labels)
    torch.manual_seed(seed)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return sentence_transformers.CrossEncoder(str(folder), device="cpu", max_length=24)


def features(encoder, columns, rows=ROWS):
    read = encoder.preprocess if hasattr(encoder, "preprocess") else encoder.tokenize
    return [read(texts(seed, rows)) for seed in range(columns)]
