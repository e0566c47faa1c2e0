import itertools

from mmpse.resources.timing import measure_latencies


def test_calls_run_interleaved_and_warm():
    ran = []
    calls = {name: lambda name=name: ran.append(name) for name in 'ab'}
    times = measure_latencies(calls, rounds=3, warmup=2)
    assert ''.join(ran) == 'aabb' * 5
    assert [len(times[name]) for name in 'ab'] == [3, 3]
    assert min(times['a'] + times['b']) > 0


def test_a_slow_measurement_ends_after_a_few_rounds(monkeypatch):
    now = itertools.count(step=10.0)  # each look at the clock is ten seconds later
    monkeypatch.setattr('time.perf_counter', lambda: next(now))
    times = measure_latencies({'a': lambda: None}, rounds=50, warmup=2)
    assert len(times['a']) == 5
