"""Pairs to train on from raw text, where nobody asked a question yet.

Every function takes rows, texts or (title, text), and returns `RawPairs`: iterated, it streams
(query, positive, row); its ``columns()`` go into `stope.data.Pairs.from_texts`, its
``examples()`` into `stope.training.train`. What comes of a row depends on the seed and the row's
number alone, not on the other rows. Rows that give no pair are counted by reason.

Options that all have: ``seed`` of all choices; ``first_row``, the number of the first row, where
rows are one part of a larger collection. A single string, a row that is no text and a number of the
wrong type are TypeErrors, a number out of range a ValueError. Memory is that of one row.
"""

from stope.data.raw_pairs.cloze import inverse_cloze
from stope.data.raw_pairs.crops import independent_crops
from stope.data.raw_pairs.pairs import RawPair, RawPairs
from stope.data.raw_pairs.queries import query_as_context, title_to_body
from stope.data.raw_pairs.spans import recurring_spans
from stope.data.raw_pairs.splitting import sentences, tokens

__all__ = [
    "RawPair", "RawPairs", "independent_crops", "inverse_cloze", "query_as_context",
    "recurring_spans", "sentences", "title_to_body", "tokens",
]  # fmt: skip
