"""A library of concepts: the slots of a data set in clusters, to compose new scenes from.

Singh et al. 2022 (SLATE, arXiv 2110.11405): slots of many images are clustered by k-means, each cluster is a library of
one concept (a wall, a hair style, an object of one kind), and a scene is composed by picking a slot from each of some
libraries.

    library = ConceptLibrary.build(method, dataset, num_concepts=8)
    slots = library.compose([[0, 3, 3, 5], [0, 1, 4, 4]], seed=0)          b n d, a random slot of each concept
    picture = render(method, slots).image                                  slotworks.evaluation.rendering
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from slotworks.evaluation.masks import inspecting
from slotworks.files import replacing
from slotworks.nn.clustering import kmeans
from slotworks.types import Dataset, Method, UserError, VideoMethod, all_finite, to_batch


@dataclass(frozen=True)
class ConceptLibrary:
    """Slots of a data set, each with its concept and where it came from."""

    slots: Float[Tensor, "m d"]
    concepts: Int64[Tensor, " m"]  # 0 for the concept with the most slots
    images: Int64[Tensor, " m"]  # index in the data set
    numbers: Int64[Tensor, " m"]  # of the slot in its image
    shares: Float[Tensor, " m"]  # of the image that the slot's attention holds

    @classmethod
    def build(
        cls,
        method: Method,
        dataset: Dataset,
        *,
        num_concepts: int,
        num_images: int = 512,
        batch_size: int = 64,
        min_share: float = 0.0,
        normalized: bool = False,
        seed: int = 0,
    ) -> "ConceptLibrary":
        """Take images apart and cluster all their slots.

        Args:
            method: on any device; left in the modes it had. The library is on the CPU.
            dataset: with images, or videos, of which each gives the slots of its first frame.
            num_concepts: clusters of k-means.
            num_images: how many images, from the first on.
            batch_size: images per forward pass.
            min_share: leave slots out that hold a smaller share of the image: empty ones.
            normalized: cluster the directions of slots, not the slots themselves.
            seed: of the initial slots and of k-means.

        Raises:
            UserError: if there are no images, or fewer slots than concepts.
        """
        found = []
        count = min(num_images, len(dataset))
        if count < 1:
            raise UserError(f"There is no image to take concepts from: the split has {len(dataset)}.")
        with inspecting(method, seed=seed) as device:
            for start in range(0, count, batch_size):
                batch = to_batch(dataset.__getitems__(range(start, min(start + batch_size, count))), device)
                video = isinstance(method, VideoMethod)
                if ("video" if video else "image") not in batch:
                    raise UserError(f"{type(method).__name__} takes {'videos' if video else 'images'}; give such data.")
                out = method.encode(batch["video"][:, :1] if video else batch["image"])
                slots, attn = (out.slots[:, 0], out.attn[:, 0]) if video else (out.slots, out.attn)
                found.append((slots.float().cpu(), attn.float().mean(dim=-1).cpu()))
            slots, shares = (torch.cat(parts) for parts in zip(*found, strict=True))
            b, n, _ = slots.shape
            images = torch.arange(b)[:, None].expand(b, n).flatten()
            numbers = torch.arange(n).expand(b, n).flatten()
            slots, shares = slots.flatten(0, 1), shares.flatten()
            kept = shares >= min_share
            if int(kept.sum()) < num_concepts:
                raise UserError(
                    f"{int(kept.sum())} slots of {b} images hold {min_share:g} of their image or more; {num_concepts} "
                    "concepts need as many. Take more images or a smaller min_share."
                )
            slots, shares, images, numbers = (values[kept] for values in (slots, shares, images, numbers))
            points = normalize(slots, dim=-1) if normalized else slots
            labels = kmeans(points[None], num_concepts)[0]
        order = torch.bincount(labels, minlength=num_concepts).argsort(descending=True, stable=True)
        return cls(slots, order.argsort()[labels], images, numbers, shares)

    @property
    def num_concepts(self) -> int:
        """How many concepts have a slot."""
        return int(self.concepts.max()) + 1

    def members(self, concept: int) -> Int64[Tensor, " k"]:
        """Rows of the library that belong to a concept.

        Raises:
            UserError: if there is no such concept.
        """
        rows = (self.concepts == concept).nonzero()[:, 0]
        if not len(rows):
            raise UserError(f"There is no concept {concept}; there are {self.num_concepts}, numbered from 0.")
        return rows

    def compose(self, scenes: Sequence[Sequence[int]], *, seed: int = 0) -> Float[Tensor, "b n d"]:
        """Slots of new scenes: for each concept of a scene one of its slots at random. All scenes of the same number.

        Raises:
            UserError: if there is no such concept, or scenes differ in their number of slots.
        """
        if len({len(scene) for scene in scenes}) != 1:
            counts = ", ".join(str(len(scene)) for scene in scenes) or "none"
            raise UserError(f"The scenes have {counts} concepts; give at least one scene, and each the same number.")
        generator = torch.Generator().manual_seed(seed)
        rows = []
        for scene in scenes:
            for concept in scene:
                members = self.members(concept)
                rows.append(members[torch.randint(len(members), (), generator=generator)])
        return self.slots[torch.stack(rows)].unflatten(0, (len(scenes), -1))

    def like(self, image: int) -> list[int]:
        """The concepts of one image's slots, in their order: a scene of the same kinds for `compose`.

        Raises:
            UserError: if the library has no slot of this image.
        """
        rows = (self.images == image).nonzero()[:, 0]
        if not len(rows):
            raise UserError(f"The library has no slot of image {image}; it was made from other images.")
        return self.concepts[rows].tolist()

    def examples(self, concept: int, count: int) -> list[tuple[int, int]]:
        """Image and slot number of the slots nearest to a concept's mean, the nearest first: what it looks like."""
        rows = self.members(concept)
        own = self.slots[rows]
        nearest = (own - own.mean(dim=0)).square().sum(dim=-1).argsort()[:count]
        return [(int(self.images[row]), int(self.numbers[row])) for row in rows[nearest]]

    def save(self, path: str | Path) -> Path:
        """Write the library as one safetensors file."""
        path = Path(path)
        with replacing(path) as beside:
            save_file({name: value.contiguous() for name, value in vars(self).items()}, beside)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "ConceptLibrary":
        """Read what `save` wrote.

        Raises:
            UserError: if it is no library of concepts.
        """
        try:
            found = load_file(Path(path))
            if broken := [name for name, value in found.items() if not all_finite(value)]:
                raise TypeError(f"NaN or infinity in {broken[0]}")
            return cls(**found)
        except (OSError, SafetensorError, TypeError) as error:
            raise UserError(f"{path} cannot be read as a library of concepts ({error}).") from error
