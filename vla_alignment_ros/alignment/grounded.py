"""Word → region grounding: every word has its pixels, and a sentence means where they meet.

* A word fits an image cell with probability σ(scale · cosine + bias). The word is taken on its
  own, before it has looked at its neighbours, so "red" is the same red in every sentence.
* A gate, read from the word in its sentence, says whether the word helps to name the thing that
  is to be acted on. In "put the red cube in the white tray" that is "red" and "cube".
* A sentence is about the cells where all these words fit: the log-probabilities add, weighted by
  the gates. A pair of words that was never trained together needs nothing new, and a thing that
  is not there fails one of its words everywhere.
* The sentence fits the scene as well as its best cell does.

Supervision: where a recorder knew what the pixels show (`Labels`), each cell against each word of
the names, and the sentence against the cells of what it names. Everywhere: what is known to be in
the scene against what is not, and the demonstration itself (the model's hindsight grounding).

Source: the product of word-wise attentions follows MAttNet's modular scores (Yu et al. 2018,
arXiv:1801.08186) and the sigmoid form SigLIP (Zhai et al. 2023, arXiv:2303.15343).
"""

from __future__ import annotations

import torch
from torch import nn
import torch.nn.functional as F

from vla_alignment_ros.alignment.base import AlignmentInputs, AlignmentOutput, BestRegionStrategy
from vla_alignment_ros.alignment.heads import best_region, precise
from vla_alignment_ros.alignment.labels import words_told
from vla_alignment_ros.encoders.language import LanguageFeatures
from vla_alignment_ros.encoders.vision import VisionFeatures

SHARPNESS = 4.0  # of attention over cells: at 1, hundreds of unfit cells outweigh the fit one
NEGATIVE_WEIGHT = 0.1  # of a cell that a word does not fit; there are a hundred for one that fits


class GroundedAlignment(BestRegionStrategy):
    """See the module's docstring.

    Args:
        width: D of the towers.
        embed: E of the shared space.
        word_weight: weight of the word → cell loss.
        sentence_weight: weight of the sentence → cells loss.
        scene_weight: weight of the sentence ↔ scene loss.
    """

    sharpness = SHARPNESS
    reads_pixel_labels = True

    def __init__(
        self,
        width: int,
        embed: int = 64,
        word_weight: float = 1.0,
        sentence_weight: float = 1.0,
        scene_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.region = nn.Linear(width, embed)  # once per image token: kept plain
        self.word = nn.Linear(width, embed)
        self.gate = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))
        self.weights = {'word': word_weight, 'sentence': sentence_weight, 'scene': scene_weight}
        self.weights['gate'] = sentence_weight
        self.weights['shape'] = word_weight

    # -- scores ---------------------------------------------------------------------------------

    def embed(
        self, vision: VisionFeatures, language: LanguageFeatures
    ) -> dict[str, torch.Tensor]:
        gate = self.referring(language).unsqueeze(-1)  # (M, L, 1)
        named = (gate * self._words(language)).sum(1)  # (M, E)
        best = self._regions(vision).mean(1)  # (B, E)
        return {
            'vision': F.normalize(best, dim=-1),
            'language': F.normalize(named, dim=-1),
        }

    def similarity(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        _, words, use = self._distinct(language)
        meet = _meet(self._fit(self._regions(vision), words), use)  # (B, M, N)
        return best_region(meet, SHARPNESS)

    def sentence_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        return self._about(self.word_regions(vision, language), language)

    def word_regions(self, vision: VisionFeatures, language: LanguageFeatures) -> torch.Tensor:
        cosine = self._words(language) @ self._regions(vision).transpose(1, 2)  # (B, L, N)
        return self._logits(cosine)

    def referring(self, language: LanguageFeatures) -> torch.Tensor:
        """How much each word helps to name what is to be acted on: (M, L) in 0…1, 0 for pads."""
        return self.gate(language.tokens).squeeze(-1).sigmoid() * language.mask

    def _about(self, fits: torch.Tensor, language: LanguageFeatures) -> torch.Tensor:
        """Where the words of each row's sentence meet: their logits (B, L, N) → (B, N)."""
        return SHARPNESS * (self.referring(language).unsqueeze(-1) * F.logsigmoid(fits)).sum(1)

    def _words(self, language: LanguageFeatures) -> torch.Tensor:
        return F.normalize(self.word(language.words), dim=-1)  # (M, L, E)

    def _regions(self, vision: VisionFeatures) -> torch.Tensor:
        return vision.once(
            self, lambda seen: F.normalize(self.region(seen.tokens), dim=-1)
        )  # (B, N, E)

    def _logits(self, cosine: torch.Tensor) -> torch.Tensor:
        return self.log_scale.exp() * cosine + self.bias

    def _distinct(
        self, language: LanguageFeatures
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The distinct words of a batch: ids (V,), vectors (V, E), and their use (M, V)."""
        ids, place = language.ids.unique(return_inverse=True)  # (V,), (M, L)
        place = place.view(language.ids.shape)
        order = torch.arange(place.numel(), device=place.device)
        first = torch.full_like(ids, place.numel()).scatter_reduce(
            0, place.flatten(), order, 'amin'
        )
        vectors = language.words.flatten(0, 1)[first]  # equal ids have equal vectors
        use = language.words.new_zeros(len(language.ids), len(ids))
        use = use.scatter_add(1, place, self.referring(language).to(use.dtype))
        return ids, F.normalize(self.word(vectors), dim=-1), use

    def _fit(self, regions: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Logits of every word (V, E) in every cell (B, N, E): (B, V, N)."""
        return self._logits(torch.einsum('bne,ve->bvn', regions, words))

    # -- losses ---------------------------------------------------------------------------------

    def forward(self, inputs: AlignmentInputs) -> AlignmentOutput:
        ids, words, use = self._distinct(inputs.language)
        regions, early = self._regions(inputs.vision), inputs.approach
        losses, diagnostics = {}, {}
        # approaches alone: later the hand covers the thing, or holds it
        fits = self._fit(regions[early], words)  # (b, V, N)
        if inputs.labels is not None:
            cells, names = inputs.labels.cells, inputs.labels.names
            member, told = words_told(inputs.labels, ids)
            fits = _teach_only(fits, told[cells[early].clamp_min(0)].transpose(1, 2))
        losses['scene'], diagnostics['scene_found'] = _scene_loss(
            best_region(_meet(fits, use[early]), SHARPNESS), inputs.present[early][:, early]
        )
        if inputs.labels is not None:
            nominal = member.any(0)  # (V,) the words that stand in any name
            losses['word'], diagnostics['word_found'] = _word_loss(
                precise(self._fit(regions, words[nominal])),
                cells,
                member[:, nominal],
                told[:, nominal],
            )
            if inputs.recoloured is not None:
                # whatever the colour: also what the data cannot tell of things in their own
                shapes = nominal & ~torch.isin(ids, inputs.labels.colours)
                losses['shape'], diagnostics['shape_found'] = _word_loss(
                    precise(self._fit(self._regions(inputs.recoloured), words[shapes])),
                    inputs.recoloured_cells,
                    member[:, shapes],
                    torch.ones_like(member[:, shapes]),
                )
            losses['sentence'], diagnostics['sentence_found'] = _sentence_loss(
                self._own(inputs, *words_told(inputs.labels, inputs.language.ids)[1:]),
                cells,
                inputs.named,
            )
            losses['gate'] = self._gate_loss(inputs.language, names, inputs.named)
        weighted = {name: self.weights[name] * value for name, value in losses.items()}
        return AlignmentOutput(weighted, diagnostics)

    def _own(self, inputs: AlignmentInputs, told: torch.Tensor) -> torch.Tensor:
        """`sentence_regions` that teaches only what is told; told (K, B, L) → (B, N)."""
        fits = self.word_regions(inputs.vision, inputs.language)  # (B, L, N)
        row = torch.arange(len(fits), device=fits.device).unsqueeze(1)
        fits = _teach_only(fits, told[inputs.labels.cells.clamp_min(0), row].transpose(1, 2))
        return self._about(precise(fits), inputs.language)

    def _gate_loss(
        self, language: LanguageFeatures, names: torch.Tensor, named: torch.Tensor
    ) -> torch.Tensor:
        """Binary cross-entropy of the gate with "this word stands in the name of the thing"."""
        rows = named > 0
        target = (names[named.clamp_min(0)].unsqueeze(1) == language.ids.unsqueeze(2)).any(2)
        where = language.mask & rows.unsqueeze(1)  # (B, L)
        logits = precise(self.gate(language.tokens).squeeze(-1))
        target = target.to(logits.dtype)
        error = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
        return _mean(error, where)


def _teach_only(logits: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """The same values, with a gradient only where `told`."""
    return torch.where(told, logits, logits.detach())


def _meet(fits: torch.Tensor, use: torch.Tensor) -> torch.Tensor:
    """Where the words of each sentence meet.

    Logits of words in cells (B, V, N), use of the words (M, V) → (B, M, N) log-probabilities.
    """
    return torch.einsum('mv,bvn->bmn', precise(use), F.logsigmoid(precise(fits)))


def _scene_loss(
    score: torch.Tensor, there: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Is what the sentence names there?  Binary cross-entropy, either answer counting half.

    score (b, m) log-probabilities, there (b, m) bool.
    """
    loss = (_mean(-score, there) + _mean(-log1mexp(score), ~there)) / 2
    right = ((score.detach().exp() > 0.5) == there).float()
    return loss, (_mean(right, there) + _mean(right, ~there)) / 2


def _word_loss(
    logits: torch.Tensor, cells: torch.Tensor, member: torch.Tensor, told: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy of every word of a name with every labelled cell.

    logits (B, V, N), cells (B, N) ids of names; (K, V) which word stands in which name, and for
    which the data tell whether it does.
    """
    row = cells.clamp_min(0)
    target = member[row].transpose(1, 2)  # (B, V, N)
    known = told[row].transpose(1, 2) & (cells >= 0).unsqueeze(1)
    yes, no = target & known, ~target & known
    count = yes.sum().clamp_min(1)
    loss = F.softplus(-logits)[yes].sum() + NEGATIVE_WEIGHT * F.softplus(logits)[no].sum()
    right = logits.detach() > 0
    hit = (right & yes).sum() / count
    false = (right & no).sum() / count
    return loss / count, hit - false  # 1: all found and nothing else


def _sentence_loss(
    logits: torch.Tensor, cells: torch.Tensor, named: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the sentence's attention with all cells of what it names.

    logits (B, N), cells (B, N), named (B,) id of what each sentence names, −1 if not known.
    """
    shown = (cells == named.unsqueeze(1)) & (named > 0).unsqueeze(1)  # (B, N)
    rows = shown.any(1)
    if not rows.any():
        return logits.sum() * 0.0, logits.new_zeros(())
    logits, shown = logits[rows], shown[rows]
    everywhere = logits.masked_fill(cells[rows] < 0, float('-inf')).logsumexp(1)
    inside = logits.masked_fill(~shown, float('-inf')).logsumexp(1)
    hit = shown.gather(1, logits.detach().argmax(1, keepdim=True)).float().mean()
    return (everywhere - inside).mean(), hit


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return (values * where).sum() / where.sum().clamp_min(1)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 − eˣ) for x ≤ 0, exact at both ends (Mächler 2012); bounded where x is 0."""
    x = x.clamp_max(-1e-6)
    return torch.where(x > -0.6931, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
