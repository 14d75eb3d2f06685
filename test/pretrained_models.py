"""Tiny models of every family, with random weights, saved as the real ones are."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    Tokenizer,
    trainers,
)
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    Siglip2Config,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
)

CORPUS = [
    'pick up the red cube', 'pick up the blue ball', 'push the red cube left',
    'put the green brick in the white tray', 'push the blue ball to the right',
]  # fmt: skip
_SMALL = {
    'hidden_size': 32,
    'intermediate_size': 48,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
}
_IMAGE = {'image_size': 32, 'patch_size': 8}
VISION = ('clip', 'siglip', 'siglip2', 'dinov2', 'dinov2_with_registers')
LANGUAGE = ('clip', 'siglip', 'siglip2', 'bert', 'roberta', 'mpnet')


def save_tiny(family: str, folder: Path, **changes: int) -> str:
    """Write a model of a family with what belongs to it; its name as a setting takes it."""
    torch.manual_seed(0)
    model = _MODELS[family](changes)
    for parameter in model.parameters():  # biases too: nothing may be zero by chance
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    if family in LANGUAGE:
        _tokenizer(family).save_pretrained(folder)
    if family in ('clip', 'siglip'):
        size = {'height': 32, 'width': 32}
        CLIPImageProcessorPil(size={'shortest_edge': 32}, crop_size=size).save_pretrained(folder)
    return f'hf:{folder}'


def _text(family: str, **changes: int) -> dict:
    tokenizer = _tokenizer(family)
    names = ('bos_token_id', 'eos_token_id', 'pad_token_id')
    ids = {name: getattr(tokenizer, name) for name in names}
    sizes = {'vocab_size': len(tokenizer), 'max_position_embeddings': 24}
    return {**_SMALL, **ids, **sizes, **changes}


_MODELS = {
    'clip': lambda c: CLIPModel(
        CLIPConfig(vision_config={**_SMALL, **_IMAGE, **c}, text_config=_text('clip'))
    ),
    'siglip': lambda c: SiglipModel(
        SiglipConfig(vision_config={**_SMALL, **_IMAGE, **c}, text_config=_text('siglip'))
    ),
    'siglip2': lambda c: Siglip2Model(
        Siglip2Config(
            vision_config={**_SMALL, 'num_patches': 16, 'patch_size': 8, **c},
            text_config=_text('siglip2'),
        )
    ),
    'dinov2': lambda c: Dinov2Model(Dinov2Config(**_SMALL, **_IMAGE, mlp_ratio=2, **c)),
    'dinov2_with_registers': lambda c: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**_SMALL, **_IMAGE, mlp_ratio=2, num_register_tokens=3, **c)
    ),
    'bert': lambda c: BertModel(BertConfig(**_text('bert', **c))),
    'roberta': lambda c: RobertaModel(RobertaConfig(**_text('roberta', **c))),
    'mpnet': lambda c: MPNetModel(MPNetConfig(**_text('mpnet', **c))),
}


@functools.cache
def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the family's kind, trained on `CORPUS`."""
    if family == 'siglip2':
        return _siglip2()
    tokenizer, special = _TOKENIZERS['roberta' if family == 'mpnet' else family]()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _bert() -> tuple[Tokenizer, dict]:
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=60, special_tokens=special, show_progress=False, continuing_subword_prefix='##'
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
    tokenizer.enable_padding(length=16)  # as a sentence encoder's file may say
    return tokenizer, {'pad_token': '[PAD]', 'unk_token': '[UNK]', 'cls_token': '[CLS]',
                       'sep_token': '[SEP]', 'mask_token': '[MASK]'}  # fmt: skip


def _roberta() -> tuple[Tokenizer, dict]:
    special = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']
    tokenizer = Tokenizer(models.BPE(unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(('</s>', 2), ('<s>', 0))
    return tokenizer, {'bos_token': '<s>', 'eos_token': '</s>', 'pad_token': '<pad>',
                       'unk_token': '<unk>', 'mask_token': '<mask>', 'cls_token': '<s>',
                       'sep_token': '</s>'}  # fmt: skip


def _clip() -> tuple[Tokenizer, dict]:
    ends = ['<|startoftext|>', '<|endoftext|>']
    trained = Tokenizer(models.BPE(unk_token=ends[1], end_of_word_suffix='</w>'))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=100, special_tokens=ends, end_of_word_suffix='</w>', show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())['model']
    # the ends come last, as CLIP has them: id 0 is a word
    order = sorted(model['vocab'], key=lambda token: (token in ends, model['vocab'][token]))
    vocabulary = {token: index for index, token in enumerate(order)}
    merges = [tuple(merge) for merge in model['merges']]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=ends[1], end_of_word_suffix='</w>')
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ends])
    tokenizer.post_processor = processors.RobertaProcessing(
        (ends[1], vocabulary[ends[1]]), (ends[0], vocabulary[ends[0]])
    )
    return tokenizer, {'bos_token': ends[0], 'eos_token': ends[1], 'pad_token': ends[1],
                       'unk_token': ends[1]}  # fmt: skip


def _siglip() -> tuple[Tokenizer, dict]:
    words = sorted({word for sentence in CORPUS for word in sentence.split()})
    letters = sorted(set(''.join(words)))
    pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', -20.0), ('\u2581', -8.0)]
    pieces += [(f'\u2581{word}', -2.0) for word in words] + [(letter, -6.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single='$A </s>', special_tokens=[('</s>', 1)]
    )
    return tokenizer, {'eos_token': '</s>', 'pad_token': '<pad>', 'unk_token': '<unk>'}


def _siglip2() -> PreTrainedTokenizerFast:
    """Of single letters."""
    letters = sorted(set(''.join(CORPUS)) - {' '})
    pieces = ['<pad>', '<eos>', '<bos>', '<unk>', '<mask>', '\u2581', *letters]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return Siglip2Tokenizer(
        vocab=vocabulary, merges=[], add_bos_token=False, add_eos_token=True, padding_side='right'
    )


_TOKENIZERS = {'bert': _bert, 'roberta': _roberta, 'clip': _clip, 'siglip': _siglip}
