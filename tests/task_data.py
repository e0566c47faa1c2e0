"""Public data sets in their own formats and places, tiny and of random content."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset, VOCDataset
from mmpretrain.datasets import CIFAR10
from mmseg.datasets import CityscapesDataset
from PIL import Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 128, 96
VOID = 255


def write_coco(root: Path, rng: np.random.Generator, images: dict[str, int]) -> None:
    """``root``/coco as COCO 2017: boxes, polygons and crowds.

    Args:
        root: The folder of all data.
        rng: Source of the content.
        images: Images of each split, such as ``{'train2017': 4}``.
    """
    for split, count in images.items():
        content = dict(info={}, licenses=[], images=[], annotations=[], categories=categories())
        for k in range(count):
            number, size = 1000 + 7 * k, (WIDTH, HEIGHT) if k % 4 else (HEIGHT, WIDTH)
            name = f'{number:012}.jpg'
            save(root / 'coco' / split / name, noise(rng, size))
            content['images'].append(
                dict(id=number, file_name=name, width=size[0], height=size[1], license=1)
            )
            # an image without objects; a crowd among those of every other image
            for j in range(0 if k == 1 else 3):
                instance = crowd(rng, size) if k % 2 == j == 0 else polygon(rng, size)
                number_of_object = len(content['annotations']) + 1
                category = content['categories'][int(rng.integers(80))]['id']
                instance.update(id=number_of_object, image_id=number, category_id=category)
                content['annotations'].append(instance)
        path = root / 'coco' / 'annotations' / f'instances_{split}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def categories() -> list[dict]:
    """COCO's 80 names; the ids have gaps, as COCO's."""
    names = CocoDataset.METAINFO['classes']
    return [dict(id=k + 1 + k // 10, name=name, supercategory='') for k, name in enumerate(names)]


def polygon(rng: np.random.Generator, size: tuple[int, int]) -> dict:
    x, y, w, h = random_box(rng, size)
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return dict(
        segmentation=[list(map(float, corners))], bbox=[x, y, w, h], area=w * h - 0.5, iscrowd=0
    )


def crowd(rng: np.random.Generator, size: tuple[int, int]) -> dict:
    x, y, w, h = random_box(rng, size)
    mask = np.zeros(size[::-1], np.uint8)
    mask[y : y + h, x : x + w] = 1
    flat = mask.ravel(order='F')  # uncompressed runs, as COCO's crowds have them
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    rle = dict(counts=[0] * int(flat[0]) + runs, size=list(mask.shape))
    area = float(coco_mask.area(coco_mask.frPyObjects(rle, *mask.shape)))
    assert area == w * h
    return dict(segmentation=rle, bbox=[x, y, w, h], area=area, iscrowd=1)


def random_box(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int, int, int]:
    w, h = (int(side) for side in rng.integers(16, 64, 2))
    return int(rng.integers(size[0] - w)), int(rng.integers(size[1] - h)), w, h


def write_cityscapes(root: Path, rng: np.random.Generator, images: dict[str, int]) -> None:
    """``root``/cityscapes as mmseg's converter leaves it: PNGs and labelTrainIds by city."""
    for split, count in images.items():
        for k in range(count):
            city = ('aachen', 'bochum')[k % 2]
            name = f'{city}_{k:06}_000019'
            folder = root / 'cityscapes'
            save(folder / f'leftImg8bit/{split}/{city}/{name}_leftImg8bit.png', noise(rng))
            labels = class_map(rng, [*range(len(CityscapesDataset.METAINFO['classes'])), VOID])
            save(folder / f'gtFine/{split}/{city}/{name}_gtFine_labelTrainIds.png', labels)


def write_ade20k(root: Path, rng: np.random.Generator, images: dict[str, int]) -> None:
    """``root``/ade as ADEChallengeData2016: 0 is what has no class, 1 to 150 are classes."""
    folder = root / 'ade/ADEChallengeData2016'
    for split, count in images.items():
        for k in range(count):
            name = f'ADE_{split[:5]}_{k + 1:08}'
            save(folder / f'images/{split}/{name}.jpg', noise(rng))
            save(folder / f'annotations/{split}/{name}.png', class_map(rng, range(151)))


def write_voc(root: Path, rng: np.random.Generator, images: dict[str, int]) -> None:
    """``root``/VOCdevkit/VOC2012 with the masks and the list ``aug`` of SBD."""
    folder = root / 'VOCdevkit/VOC2012'
    for k, (split, count) in enumerate(images.items()):
        names = [f'2007_{1000 * k + number:06}' for number in range(count)]
        masks = 'SegmentationClassAug' if split == 'aug' else 'SegmentationClass'
        for name in names:
            save(folder / f'JPEGImages/{name}.jpg', noise(rng))
            labels = class_map(rng, [*range(21), VOID])
            labels.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
            save(folder / f'{masks}/{name}.png', labels)
        path = folder / f'ImageSets/Segmentation/{split}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(names) + '\n')


def noise(rng: np.random.Generator, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))


def class_map(rng: np.random.Generator, labels: Sequence[int]) -> Image.Image:
    """Blocks of random classes."""
    blocks = rng.choice(np.array(labels, np.uint8), (HEIGHT // 8, WIDTH // 8))
    return Image.fromarray(blocks.repeat(8, 0).repeat(8, 1))


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_voc_boxes(
    root: Path, rng: np.random.Generator, images: dict[str, dict[str, int]]
) -> None:
    """``root``/VOCdevkit with boxes, e.g. ``{'VOC2007': {'trainval': 20}}``; one is difficult."""
    names = VOCDataset.METAINFO['classes']
    for year, splits in images.items():
        folder = root / 'VOCdevkit' / year
        for number, (split, count) in enumerate(splits.items()):
            files = [f'{year[3:]}_{1000 * number + k:06}' for k in range(count)]
            for name in files:
                save(folder / f'JPEGImages/{name}.jpg', noise(rng))
                objects = ''
                for k in range(3):
                    x, y, w, h = random_box(rng, (WIDTH, HEIGHT))
                    objects += (
                        f'<object><name>{names[int(rng.integers(20))]}</name>'
                        f'<difficult>{int(k == 2)}</difficult><bndbox><xmin>{x + 1}</xmin>'
                        f'<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox>'
                        '</object>'
                    )
                size = f'<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>'
                write_text(
                    folder / f'Annotations/{name}.xml', f'<annotation>{size}{objects}</annotation>'
                )
            write_text(folder / f'ImageSets/Main/{split}.txt', '\n'.join(files) + '\n')


def write_imagenet(root: Path, rng: np.random.Generator, images: dict[str, int]) -> None:
    """``root``/imagenet: a folder for each of three classes, as many images in each."""
    for split, count in images.items():
        for k in range(3 * count):
            name = f'n0000000{k % 3}/n0000000{k % 3}_{k}.JPEG'
            save(root / 'imagenet' / split / name, noise(rng))


def write_cifar10(root: Path, rng: np.random.Generator, images: int) -> None:
    """``root``/cifar10 as its authors pack it, ``images`` in each of its six files."""
    for name in (*(f'data_batch_{k}' for k in range(1, 6)), 'test_batch'):
        path = root / 'cifar10/cifar-10-batches-py' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = rng.integers(0, 256, (images, 3072), np.uint8)
        labels = rng.integers(0, 10, images).tolist()
        path.write_bytes(pickle.dumps(dict(data=data, labels=labels)))
    path = path.with_name('batches.meta')
    path.write_bytes(pickle.dumps(dict(label_names=CIFAR10.METAINFO['classes'])))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
