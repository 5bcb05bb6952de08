"""A text encoder without weights, which replaces one that a check cannot download."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.language_models.bert import generate_masks_with_special_tokens_and_transfer_map
from mmdet.registry import MODELS
from mmengine.model import BaseModel
from torch import Tensor, nn

_START, _END, _STOP, _WORD = 101, 102, 1012, 2000
_DIM = 768


def stand_in_for_configs() -> None:
    """Give heads that only read the size of BERT the size of its base model, without a download."""
    try:
        from transformers import BertConfig
    except ImportError:
        return
    BertConfig.from_pretrained = classmethod(lambda cls, *args, **kwargs: cls())


@dataclass
class _Tokens:
    """Token ids of texts, and the token of every character of the first text."""

    input_ids: Tensor
    attention_mask: Tensor
    owners: dict[int, int]

    def char_to_token(self, *position: int) -> int | None:
        """The token of a character."""
        return self.owners.get(position[-1])


class _Tokenizer:
    """Makes a token of each word and each full stop."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, texts: Sequence[str], padding: str | None = None, **kwargs: Any) -> _Tokens:
        rows, owners = [], []
        for text in texts:
            ids, owner = _tokenize(text)
            rows.append(torch.tensor(ids))
            owners.append(owner)
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if padding == 'max_length':
            padded = nn.functional.pad(padded, (0, self.max_tokens - padded.shape[1]))
        return _Tokens(padded, (padded > 0).long(), owners[0])


def _tokenize(text: str) -> tuple[list[int], dict[int, int]]:
    ids, owner, inside = [_START], {}, False
    for position, character in enumerate(text):
        if character.isspace():
            inside = False
        elif character == '.':
            ids.append(_STOP)
            inside = False
        elif not inside:
            ids.append(_WORD)
            inside = True
        if not character.isspace():
            owner[position] = len(ids) - 1
    return [*ids, _END], owner


@MODELS.register_module()
class StandInTextEncoder(BaseModel):
    """Has the inputs and outputs of mmdet's BertModel, and an embedding of token ids for its layers."""

    def __init__(
        self,
        max_tokens: int = 256,
        pad_to_max: bool = True,
        use_sub_sentence_represent: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.max_tokens, self.pad_to_max = max_tokens, pad_to_max
        self.by_sentence = use_sub_sentence_represent
        self.tokenizer = _Tokenizer(max_tokens)
        body: Any = nn.Embedding(_WORD + 1, _DIM)
        body.language_dim = _DIM
        self.language_backbone: Any = nn.ModuleDict(dict(body=body))
        self.language_backbone.body = body

    def forward(self, captions: Sequence[str], **kwargs: Any) -> dict[str, Tensor]:
        """Embed captions."""
        tokens = self.tokenizer(captions, 'max_length' if self.pad_to_max else None)
        embedded = self.language_backbone.body(tokens.input_ids)
        features = dict(embedded=embedded, hidden=embedded, masks=tokens.attention_mask)
        if not self.by_sentence:
            return features
        masks, positions = generate_masks_with_special_tokens_and_transfer_map(
            dict(input_ids=tokens.input_ids), (_START, _END, _STOP)
        )
        text_mask = tokens.attention_mask.bool()
        return features | dict(masks=masks, position_ids=positions, text_token_mask=text_mask)
