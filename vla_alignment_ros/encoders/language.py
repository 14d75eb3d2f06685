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
# the ids of words, whoever's tokenizer it is: these three and then the vocabulary
PAD_ID, UNKNOWN_ID, MASK_ID = 0, 1, 2
RESERVED = 3
MAX_WORDS = 24  # where the tokenizer itself sets no limit


@dataclass(frozen=True)
class LanguageFeatures:
    """Sentences as the tower sees them.

    `tokens` know their neighbours; `words` are the same words on their own, before any of them
    has looked at another, so that "red" is the same in every sentence.
    """

    tokens: torch.Tensor  # (B, L, D)
    words: torch.Tensor  # (B, L, D)
    ids: torch.Tensor  # (B, L) int64, 0 where padded
    mask: torch.Tensor  # (B, L) True where a word is
    pooled: torch.Tensor  # (B, D) the sentence as a whole; zero where there is no word

    def rows(self, index: torch.Tensor) -> LanguageFeatures:
        """The sentences `index` points at, in its order."""
        parts = (self.tokens, self.words, self.ids, self.mask, self.pooled)
        return LanguageFeatures(*(part[index] for part in parts))


def build_tokenizer(sentences: Sequence[str]) -> Tokenizer:
    """A word-level tokenizer over the words of the given sentences, in sorted order."""
    words = _words(sentences)
    if not words:
        raise ConfigError('there is no instruction to build a vocabulary from')
    return _word_level([PAD, UNKNOWN, MASK, *words])


def add_words(tokenizer: Tokenizer, sentences: Sequence[str]) -> tuple[Tokenizer, list[str]]:
    """A tokenizer that knows all words of the sentences, and which of them are new, sorted.

    Known words keep their ids, new ones come behind them. The tokenizer of a pretrained model
    knows how to spell every word, and stays as it is.
    """
    if not isinstance(tokenizer.model, WordLevel):
        return tokenizer, []
    known = tokenizer.get_vocab()
    new = [word for word in _words(sentences) if word not in known]
    return _word_level([*sorted(known, key=known.get), *new]), new


def _words(sentences: Sequence[str]) -> list[str]:
    return sorted({word for text in sentences for word in normalize_instruction(text).split()})


def _word_level(tokens: Sequence[str]) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def shift(tokenizer: Tokenizer) -> int:
    """How far ids of words lie above the tokenizer's own: 0 where its first three are ours."""
    own = [tokenizer.id_to_token(index) for index in range(RESERVED)]
    return 0 if own == [PAD, UNKNOWN, MASK] else RESERVED


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> torch.Tensor:
    """(B, L) int64 word ids, padded with 0; L is the longest sentence.

    A tokenizer of a pretrained model may cut words into pieces, which count as words here. Its
    special tokens are left out: they are the tower's business. Sentences are cut at its limit,
    or at MAX_WORDS.
    """
    rows = [[index for _, index in _pieces(tokenizer, text)] for text in sentences]
    longest = max((len(row) for row in rows), default=1) or 1
    ids = torch.full((len(rows), longest), PAD_ID, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids


def spoken_words(tokenizer: Tokenizer, sentence: str) -> list[tuple[str, list[int]]]:
    """The words of a sentence, each with its places in the L axis of `tokenize`.

    Words beyond the limit are left out.
    """
    text = normalize_instruction(sentence)
    number = [0] * (len(text) + 1)  # of the word that a character belongs to
    for place, letter in enumerate(text):
        number[place + 1] = number[place] + (letter == ' ')
    words = [(word, []) for word in text.split()]
    for place, (start, _) in enumerate(_pieces(tokenizer, sentence)):
        words[number[start + (text[start : start + 1] == ' ')]][1].append(place)
    return [(word, places) for word, places in words if places]


def _pieces(tokenizer: Tokenizer, sentence: str) -> list[tuple[int, int]]:
    """Where each piece of a sentence begins in its normalised text, and its id."""
    limit = (tokenizer.truncation or {}).get('max_length', MAX_WORDS)
    coded = tokenizer.encode(normalize_instruction(sentence), add_special_tokens=False)
    above = shift(tokenizer)
    unknown = getattr(tokenizer.model, 'unk_token', None)
    return [
        (start, UNKNOWN_ID if token == unknown else index + above)
        for (start, _), token, index in zip(coded.offsets, coded.tokens, coded.ids)
    ][:limit]


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

    def forward(
        self, ids: torch.Tensor, withheld: torch.Tensor | None = None
    ) -> LanguageFeatures:
        """Read sentences.

        Args:
            ids: (B, L) int64, 0 where padded. A sentence without words pools to zero.
            withheld: (B, L) in 0…1, how much of each word is replaced by the mask word.
        """
        mask = ids != PAD_ID  # (B, L)
        # an all-padded row would be a softmax over nothing: let it see its first pad
        first = torch.arange(ids.shape[1], device=ids.device) == 0  # (L,)
        seen = mask | (~mask.any(dim=1, keepdim=True) & first)
        words = self.bert.embeddings.word_embeddings(ids)  # (B, L, D)
        shown = words
        if withheld is not None:
            nothing = self.bert.embeddings.word_embeddings.weight[MASK_ID]
            share = withheld.to(words.dtype).unsqueeze(-1)  # autocast makes it half as wide
            shown = torch.lerp(words, nothing.expand_as(words), share)
        tokens = self.bert(inputs_embeds=shown, attention_mask=seen.long()).last_hidden_state
        weight = mask.unsqueeze(-1).to(tokens.dtype)  # (B, L, 1)
        pooled = (tokens * weight).sum(1) / weight.sum(1).clamp_min(1)
        return LanguageFeatures(tokens, words, ids, mask, pooled)
