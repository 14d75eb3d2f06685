"""Language tower: normalised instructions → word tokens, mask and a masked-mean pooled vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
import torch
from torch import nn
from transformers import BertConfig, BertModel

from vla_alignment_ros.errors import ConfigError
from vla_alignment_ros.observation import normalize_instruction

PAD, UNKNOWN, MASK = '[PAD]', '[UNK]', '[MASK]'
MAX_WORDS = 24


@dataclass(frozen=True)
class LanguageFeatures:
    """Word tokens (B, L, D), mask (B, L) True where a word is, pooled (B, D)."""

    tokens: torch.Tensor
    mask: torch.Tensor
    pooled: torch.Tensor


def build_tokenizer(sentences: Sequence[str]) -> Tokenizer:
    """A word-level tokenizer over the words of the given sentences, in sorted order."""
    words = sorted({word for text in sentences for word in normalize_instruction(text).split()})
    if not words:
        raise ConfigError('there is no instruction to build a vocabulary from')
    vocabulary = {token: i for i, token in enumerate([PAD, UNKNOWN, MASK, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> torch.Tensor:
    """(B, L) int64 word ids, padded with 0; L is the longest sentence, at most MAX_WORDS."""
    rows = [tokenizer.encode(normalize_instruction(t)).ids[:MAX_WORDS] for t in sentences]
    longest = max((len(row) for row in rows), default=1) or 1
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids


class LanguageTower(nn.Module):
    """A small BERT over words, trained from scratch. Pooling is a masked mean."""

    def __init__(self, vocabulary_size: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.bert = BertModel(
            BertConfig(
                vocab_size=vocabulary_size,
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=2 * width,
                max_position_embeddings=MAX_WORDS,
                type_vocab_size=1,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                pad_token_id=0,
            ),
            add_pooling_layer=False,
        )

    def forward(self, ids: torch.Tensor) -> LanguageFeatures:
        """Ids (B, L) int64, 0 where padded. A sentence without words pools to zero."""
        mask = ids != 0  # (B, L)
        # an all-padded row would be a softmax over nothing: let it see its first pad
        first = torch.arange(ids.shape[1], device=ids.device) == 0  # (L,)
        seen = mask | (~mask.any(dim=1, keepdim=True) & first)
        tokens = self.bert(input_ids=ids, attention_mask=seen.long()).last_hidden_state
        weight = mask.unsqueeze(-1).to(tokens.dtype)  # (B, L, 1)
        pooled = (tokens * weight).sum(1) / weight.sum(1).clamp_min(1)
        return LanguageFeatures(tokens, mask, pooled)
