import json

from mmpse.differences import differences


def test_the_key_is_named_with_both_values():
    model = dict(type='ImageClassifier', head=dict(num_classes=10, topk=[1, 5]))
    other = json.loads(json.dumps(model))
    assert differences(model, other) == ''
    other['head']['num_classes'] = 20
    assert differences(model, other) == 'head.num_classes: 10 there, 20 now'
    other['head']['topk'][1] = None
    del other['type']
    assert differences(model, other) == (
        'head.num_classes: 10 there, 20 now; head.topk: [1, 5] there, [1, null] now; '
        'type: "ImageClassifier" there, nothing now'
    )


def test_many_and_long_differences_are_cut():
    there, now = {f'key{k}': list(range(100)) for k in range(9)}, {f'key{k}': 0 for k in range(9)}
    said = differences(there, now)
    assert said.endswith(' and 6 more') and said.count('there') == 3 and len(said) < 400
    long = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=[640, 480]),
        dict(type='Pack'),
    ]
    other = json.loads(json.dumps(long))
    other[1]['scale'] = [320, 240]
    assert differences(long, other) == '[1].scale: [640, 480] there, [320, 240] now'
    assert differences(dict(a=[1]), dict(a=[1, 2])) == 'a: [1] there, [1, 2] now'
