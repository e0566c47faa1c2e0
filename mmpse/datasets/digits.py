"""The embedded data: scikit-learn's 1,797 handwritten digits, and scenes made of them.

:func:`prepare_digits` writes, below ``root``::

    cls/{train,val,test}/{0..9}/{index}.png     1047 / 300 / 450 pictures, 32x32 RGB
    scenes/{train,test}/{number}.png            600 / 150 scenes of 2 to 6 digits, 128x128 RGB
    scenes/annotations/{train,test}.json        COCO: boxes and masks of the visible pixels
    scenes/seg/{train,test}/{number}.png        class maps: 0 = background, 1..10 = digit + 1
    manifest.json                               counts, and digests of every file's decoded content

``index`` is the digit's number in scikit-learn; annotations carry it as ``digit_index``. Train
scenes are made of the digits of ``cls/train`` and ``cls/val``, test scenes of those of
``cls/test``. ``cls/val`` is for judging subnets.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from PIL import Image
from pycocotools import mask as coco_mask
from rich.progress import track

from mmpse.errors import UserError
from mmpse.files import written

from .scenes import Scene, draw_scene, resize, tight_box

CLASSES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
SPLITS = {'train': 1047, 'val': 300, 'test': 450}
SCENES = {'train': 600, 'test': 150}
SEED = 1797
SCHEMA_VERSION = 1
SOURCE_DIGEST = '87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826'
DIGEST = '46c1db165b4d82825e81baf0f2e76abb880128160bdfa603bcf564275ace725b'


def load_source() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: (1797, 8, 8) uint8 inks 0..16 and (1797,) uint8 labels 0..9.

    Raises:
        UserError: the installed scikit-learn carries other digits than expected.
    """
    import sklearn.datasets  # here: it takes a second, and only writing needs it

    source = sklearn.datasets.load_digits()
    inks, labels = source.images.astype(np.uint8), source.target.astype(np.uint8)
    digest = hashlib.sha256(inks.tobytes() + labels.tobytes()).hexdigest()
    if digest != SOURCE_DIGEST:
        raise UserError(
            f'sklearn.datasets.load_digits() of scikit-learn {sklearn.__version__} has SHA-256 '
            f'{digest}, expected {SOURCE_DIGEST}: these are not the digits that mmpse is tested '
            'with. Install another scikit-learn (1.3 and 1.9 have the right ones).'
        )
    return inks, labels


def split_digits(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Sorted digit indices of each split: disjoint, stratified to within one digit per class."""
    shuffled = np.random.RandomState(SEED).permutation(len(labels))
    rest = shuffled[np.argsort(labels[shuffled], kind='stable')]  # grouped by class
    splits = {}
    for split in ('test', 'val'):
        taken = np.arange(SPLITS[split]) * len(rest) // SPLITS[split]  # evenly over the classes
        splits[split] = np.sort(rest[taken])
        rest = np.delete(rest, taken)
    return {'train': np.sort(rest), **splits}


def prepare_digits(root: str | Path) -> dict:
    """Verify the digits data in ``root``; write it if it is missing or damaged.

    The manifest comes last, so that what a killed run leaves is not taken for the data. Several
    processes may call this at once: they write the same.

    Returns:
        The manifest: ``schema_version``, ``digest``, ``source_digest``, ``counts`` and ``files``.

    Raises:
        FileExistsError: ``root`` holds files that are not of the data.
        UserError: scikit-learn's digits, or what is made of them, have another digest.
    """
    root = Path(root).resolve()
    existed, damage = root.exists(), find_damage(root)
    if damage:
        total = sum(SPLITS.values()) + 2 * sum(SCENES.values()) + len(SCENES)
        contents = dict(track(_contents(), 'drawing', total, transient=True))
        manifest = _manifest({path: _digest(content) for path, content in contents.items()})
        if manifest['digest'] != DIGEST:
            raise UserError(
                f'the digits data made here has SHA-256 {manifest["digest"]}, expected {DIGEST}: '
                'results would not be comparable. Either mmpse.datasets was changed, or NumPy '
                f'{np.__version__} computes otherwise than the tested ones (1.24 to 2.4).'
            )
        if strangers := sorted(_present(root) - contents.keys()):
            raise FileExistsError(
                f'{root} holds {len(strangers)} file(s) that are not of the digits data, such as '
                f'{strangers[0]}: move them away, or choose another root'
            )
        for path, content in track(contents.items(), 'writing', transient=True):
            _write(root / path, content)
        _write(root / 'manifest.json', manifest)
        if existed:
            listed = '; '.join(damage[:5]) + f'; {len(damage) - 5} more' * (len(damage) > 5)
            message = f'{root} has been written again, because {listed}'
            print_log(message, 'current', logging.WARNING)
    return _read_json(root / 'manifest.json')


def find_damage(root: str | Path) -> list[str]:
    """How ``root`` differs from what this version of mmpse writes; empty if it does not."""
    root = Path(root)
    try:
        manifest = _read_json(root / 'manifest.json')
        files = manifest['files']
        whole = manifest == _manifest(files) and manifest['digest'] == DIGEST
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        return ['manifest.json is missing, damaged or of another version of mmpse']

    damage = [f'{path} does not belong here' for path in _present(root) - files.keys()]
    for path, digest in track(files.items(), 'verifying', transient=True):
        try:
            if _digest(_read(root / path)) != digest:
                damage.append(f'{path} has changed')
        except FileNotFoundError:
            damage.append(f'{path} is missing')
        except (OSError, ValueError, SyntaxError):  # what Pillow and json raise for broken files
            damage.append(f'{path} is not readable')
    return damage


def check_digits(data_root: str) -> None:
    """Make sure, by its manifest, that a folder holds the digits data.

    Raises:
        FileNotFoundError: It is missing, or was written by another version of mmpse.
    """
    remedy = f'write it with `python tools/dataset_converters/prepare_digits.py --root {data_root}`'
    path = Path(data_root).absolute() / 'manifest.json'
    try:
        found = _read_json(path)['digest']
    except (OSError, ValueError, KeyError, TypeError):
        raise FileNotFoundError(
            f'no digits data in {path.parent} (data_root={data_root!r}, no readable manifest.json '
            f'there): {remedy}'
        ) from None
    if found != DIGEST:
        raise FileNotFoundError(
            f'{path.parent} holds the digits data of another version of mmpse (SHA-256 {found}, '
            f'expected {DIGEST}): {remedy}'
        )


def _contents() -> Iterator[tuple[str, Any]]:
    """Each file's path below the root and its content: a uint8 picture or a JSON object."""
    inks, labels = load_source()
    splits = split_digits(labels)
    for split, indices in splits.items():
        for index in indices:
            picture = resize(inks[index].astype(int) * 255 // 16, 32, 32).astype(np.uint8)
            yield f'cls/{split}/{labels[index]}/{index:04d}.png', np.stack([picture] * 3, -1)

    pools = {'train': np.concatenate([splits['train'], splits['val']]), 'test': splits['test']}
    for stream, (split, pool) in enumerate(pools.items()):
        images, annotations = [], []
        for image_id in range(1, SCENES[split] + 1):
            scene = draw_scene(np.random.RandomState([SEED, stream, image_id]), inks, pool)
            name = f'{image_id:04d}.png'
            yield f'scenes/{split}/{name}', scene.image
            class_of_owner = np.array([0, *(labels[scene.indices] + 1)], np.uint8)
            yield f'scenes/seg/{split}/{name}', class_of_owner[scene.owner]
            height, width = scene.owner.shape
            images.append(dict(id=image_id, file_name=name, height=height, width=width))
            for annotation in _annotations(scene, labels):
                annotation |= dict(id=len(annotations) + 1, image_id=image_id)
                annotations.append(annotation)
        categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
        yield (
            f'scenes/annotations/{split}.json',
            dict(images=images, annotations=annotations, categories=categories),
        )


def _annotations(scene: Scene, labels: np.ndarray) -> Iterator[dict]:
    for number, index in enumerate(scene.indices, 1):
        mask = scene.owner == number
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        yield dict(
            category_id=int(labels[index]) + 1,
            bbox=list(tight_box(mask)),
            area=int(mask.sum()),
            iscrowd=0,
            segmentation=dict(size=list(mask.shape), counts=rle['counts'].decode()),
            digit_index=index,
        )


def _manifest(files: dict[str, str]) -> dict:
    listing = ''.join(f'{path} {digest}\n' for path, digest in sorted(files.items()))
    return dict(
        schema_version=SCHEMA_VERSION,
        digest=hashlib.sha256(listing.encode()).hexdigest(),
        source_digest=SOURCE_DIGEST,
        counts=dict(Counter('/'.join(path.split('/')[:2]) for path in files)),
        files=files,
    )


def _digest(content: Any) -> str:
    """SHA-256 of decoded content, since the bytes of a PNG depend on zlib's version."""
    if isinstance(content, np.ndarray):
        data = f'{content.dtype}{content.shape}'.encode() + content.tobytes()
    else:
        data = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _present(root: Path) -> set[str]:
    """Paths of all files below ``root`` but the manifest and hidden ones."""
    paths = (path for path in root.rglob('*') if path.is_file() and path.name[0] != '.')
    return {path.relative_to(root).as_posix() for path in paths} - {'manifest.json'}


def _read(path: Path) -> Any:
    if path.suffix == '.json':
        return _read_json(path)
    with Image.open(path) as picture:
        return np.asarray(picture)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding='utf-8'))


def _write(path: Path, content: Any) -> None:
    with written(path) as (temporary,):
        if path.suffix == '.json':
            temporary.write_text(json.dumps(content, sort_keys=True), encoding='utf-8')
        else:  # the pictures are half noise
            Image.fromarray(content).save(temporary, compress_level=1)
