import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { ranges } from './OverviewTab';
import { aligned, MemberSeries, REPORTS_MAX, smoothed, thinned } from './series';
import { yaml } from './yaml';

describe('series', () => {
  test('every numeric key is a series, and only those', () => {
    const series = new MemberSeries();
    series.add([
      { t_ms: 1000, step: 1, loss: 2, note: 'hi' },
      { t_ms: 2000, step: 2, loss: 1, accuracy: 0.5, loss_nan: NaN },
    ]);

    expect(series.keys()).toEqual(['loss', 'accuracy', 'loss_nan']);
    expect(series.points('loss', 'step')).toEqual({ x: [1, 2], y: [2, 1] });
    expect(series.points('loss', 'time')).toEqual({ x: [1, 2], y: [2, 1] });
    expect(series.points('loss_nan', 'step')).toEqual({ x: [], y: [] });
  });

  test('without steps the order of reports is the axis', () => {
    const series = new MemberSeries();
    series.add([{ loss: 3 }, { loss: 2 }]);

    expect(series.points('loss', 'step').x).toEqual([0, 1]);
  });

  test('it is bounded, and says what it dropped', () => {
    const series = new MemberSeries();
    series.add(Array.from({ length: REPORTS_MAX + 5 }, (_, step) => ({ step, a: 1 })));

    expect([series.count, series.dropped]).toEqual([REPORTS_MAX, 5]);
  });

  test('thinning keeps the lowest, the highest, the ends and the order', () => {
    const values = fc.array(fc.double({ noNaN: true, min: -1e6, max: 1e6 }), {
      minLength: 1,
      maxLength: 900,
    });
    fc.assert(
      fc.property(values, fc.integer({ min: 1, max: 60 }), (y, buckets) => {
        const thin = thinned({ x: y.map((_, i) => i), y }, buckets);

        expect(Math.min(...thin.y)).toBe(Math.min(...y));
        expect(Math.max(...thin.y)).toBe(Math.max(...y));
        expect(thin.x[0]).toBe(0);
        expect(thin.x.at(-1)).toBe(y.length - 1);
        expect(thin.x).toEqual([...thin.x].sort((a, b) => a - b));
        expect(thin.y.length).toBeLessThanOrEqual(Math.max(y.length && 2 * buckets + 2, 1));
      }),
    );
  });

  test('smoothing leaves a constant alone and follows a step half way in its half-life', () => {
    expect(smoothed({ x: [0, 1], y: [5, 5] }, 4).y).toEqual([5, 5]);

    const up = smoothed({ x: [0, 1, 2], y: [0, 1, 1] }, 2).y;
    expect(up[2]).toBeCloseTo(0.5);
  });

  test('lines with other steps share an axis with gaps', () => {
    expect(
      aligned([
        { x: [0, 2], y: [1, 2] },
        { x: [1, 2], y: [3, 4] },
      ]),
    ).toEqual([
      [0, 1, 2],
      [1, null, 2],
      [null, 3, 4],
    ]);
  });
});

test.each([
  [[0, 1, 2, 3], '0-3'],
  [[3, 1, 0], '0-1, 3'],
  [[5], '5'],
  [[], ''],
])('devices %j read %s', (gpus, text) => {
  expect(ranges(gpus)).toBe(text);
});

test('yaml says strings that look like something else with quotes', () => {
  const text = yaml({
    command: ['python', 'a b.py', '-u', 'no', '3'],
    env: { A: 'true' },
    gpus: 0.5,
    name: '',
  });

  expect(text).toBe('command: [python, a b.py, "-u", "no", "3"]\nenv:\n  A: "true"\ngpus: 0.5\n');
});
