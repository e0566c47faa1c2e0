import itertools
import math

from mmpse.resources.busy import Clocks
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


def test_what_another_job_took_from_a_call_does_not_count(monkeypatch):
    """Four seconds pass for a second of work, and in one round six for less than two."""
    now = [Clocks(0.0, 0.0, 0.0)]

    def clocks():
        return now[-1]

    def call(wall, work):
        now.append(Clocks(now[-1].wall + wall, now[-1].thread + work, now[-1].process + work))

    walls = itertools.cycle([(6.0, 1.75), (4.0, 1.0)])
    monkeypatch.setattr('mmpse.resources.timing.clocks', clocks)
    times = measure_latencies(
        {'a': lambda: call(*next(walls))}, rounds=3, warmup=0, enough=math.inf
    )
    assert times == {'a': [4.0, 4.0, 4.0]} and times.least == {'a': 1.0}
    assert times.busy > 3
