import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { packed, type Heat } from '../api/series';
import {
  likeness,
  ordered,
  ORDERS,
  placeRows,
  raster,
  rowAt,
  scaleOf,
  summaryOf,
  thinnedRows,
} from './heat';
import { marks, moved, spanOf } from './span';

const heat = (rows: (number | null)[][], unit = 'percent'): Heat =>
  packed({
    metric: 'm',
    unit,
    times: rows[0]?.map((_, at) => 1_000_000 + at * 10_000) ?? [],
    series: rows.map((values, i) => ({
      key: `n${i >> 1}/${i & 1}`,
      node: `n${i >> 1}`,
      gpu: i & 1,
      rank: i >> 1,
      values,
    })),
  });

const anyHeat = fc
  .tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 30 }))
  .chain(([rows, columns]) =>
    fc.array(
      fc.array(fc.option(fc.integer({ min: 0, max: 100 }), { nil: null }), {
        minLength: columns,
        maxLength: columns,
      }),
      { minLength: rows, maxLength: rows },
    ),
  )
  .map((rows) => heat(rows));

describe('order', () => {
  test('every order holds each line once, and is the same each time', () => {
    fc.assert(
      fc.property(anyHeat, fc.constantFrom(...ORDERS), (one, order) => {
        const { rows } = ordered(one, order);
        expect([...rows].sort((a, b) => a - b)).toEqual(one.lines.map((_, i) => i));
        expect([...ordered(one, order).rows]).toEqual([...rows]);
      }),
    );
  });

  test('lines that behave alike stand side by side, the unusual ones first', () => {
    const usual = [90, 90, 60, 60];
    const slow = [90, 90, 98, 98];
    const one = heat([usual, usual, slow, usual, slow, usual, usual, usual]);
    const { rows, apart } = ordered(one, 'likeness');

    expect([...rows]).toEqual([2, 4, 0, 1, 3, 5, 6, 7]);
    expect(apart(4, 0)).toBe(true);
    expect(apart(0, 1)).toBe(false);
  });

  test('lines that are all the same keep the order of rank', () => {
    expect([
      ...likeness(
        heat([
          [5, 5],
          [5, 5],
          [5, 5],
        ]),
      ),
    ]).toEqual([0, 0, 0]);
  });

  test('a node of which half the readings are missing is no outlier', () => {
    const one = heat([
      [9, 9, 9],
      [9, null, 9],
      [9, 9, 9],
      [3, 3, 3],
    ]);

    expect(ordered(one, 'likeness').rows[0]).toBe(3);
  });
});

describe('a strip with more lines than pixels', () => {
  test('keeps one line of each bunch and never more than there is room for', () => {
    fc.assert(
      fc.property(anyHeat, fc.integer({ min: 1, max: 50 }), (one, most) => {
        const { rows } = ordered(one, 'rank');
        const kept = thinnedRows(one, rows, most);
        expect(kept.length).toBeLessThanOrEqual(most);
        const places = [...kept].map((row) => rows.indexOf(row));
        expect(places).toEqual([...places].sort((a, b) => a - b));
      }),
    );
  });

  test('never averages an outlier away', () => {
    const rows = Array.from({ length: 64 }, (_, i) => [i === 37 ? 5 : 90, 90]);

    expect([...thinnedRows(heat(rows), ordered(heat(rows), 'rank').rows, 8)]).toContain(37);
  });
});

describe('places of lines', () => {
  test('lines never overlap, are of one height and are found again', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 300 }),
        fc.integer({ min: 300, max: 600 }),
        fc.integer({ min: 1, max: 9 }),
        (n, height, every) => {
          const place = placeRows(n, height, (at) => at % every === 0);
          expect(place.total).toBeLessThanOrEqual(Math.max(height, 1));
          for (let i = 0; i < n; i++) {
            if (i) expect(place.top[i]! - place.top[i - 1]!).toBeGreaterThanOrEqual(place.height);
            expect(rowAt(place, place.top[i]! + place.height / 2)).toBe(i);
          }
          expect(rowAt(place, -1)).toBe(-1);
        },
      ),
    );
  });
});

test('a reading that is missing is transparent, zero is not', () => {
  const pixels = raster(
    heat([[0, null, 100]]),
    Int32Array.of(0),
    [
      [1, 2, 3],
      [4, 5, 6],
    ],
    { low: 0, high: 100 },
  );

  expect([...pixels]).toEqual([1, 2, 3, 255, 0, 0, 0, 0, 4, 5, 6, 255]);
});

test.each([
  ['percent', [[3, 5]], { low: 0, high: 100 }],
  ['W', [[100, 700]], { low: 100, high: 700 }],
  ['MHz', [[1980, 1980]], { low: 1782, high: 2178 }],
  ['W', [[null]], { low: 0, high: 1 }],
])('a scale in %s of %j is %j', (unit, rows, scale) => {
  expect(scaleOf(heat(rows, unit))).toEqual(scale);
});

test('a summary names the lines with the lowest and the highest mean', () => {
  const found = summaryOf(
    heat([
      [50, 50],
      [10, 30],
      [null, null],
      [90, 80],
    ]),
  );

  expect([found.lowest, found.highest, found.mean]).toEqual([1, 3, expect.closeTo(51.67, 1)]);
});

describe('the time shown', () => {
  const begin = 1_000_000_000_000;
  const now = begin + 5 * 3_600_000 + 12_345;
  const at = (words: string, live = true) => spanOf(new URLSearchParams(words), begin, now, live);

  test('follows the present for an hour unless the URL says otherwise', () => {
    const span = at('');
    expect(span.follows).toBe(true);
    expect(span.toMs - span.fromMs).toBe(3_600_000);
    expect(span.toMs - now).toBeLessThan(span.stepMs);
    expect(at('last=6h').fromMs).toBeLessThanOrEqual(begin);
  });

  test('asks the same question until a step has passed', () => {
    const later = spanOf(new URLSearchParams(), begin, now + 1_000, true);
    expect([later.fromMs, later.toMs]).toEqual([at('').fromMs, at('').toMs]);
  });

  test('stands still where the URL names it, and never shows more than 241 columns', () => {
    fc.assert(
      fc.property(fc.nat(18_000_000), fc.integer({ min: 1, max: 18_000_000 }), (from, length) => {
        const span = at(`from=${begin + from}&to=${begin + from + length}`);
        expect(span.follows).toBe(false);
        expect((span.toMs - span.fromMs) / span.stepMs).toBeLessThanOrEqual(241);
        expect(span.fromMs % span.stepMs).toBe(0);
      }),
    );
  });

  test('steps by half, not before the beginning and not beyond the end', () => {
    const back = moved(at(''), -1, begin, now);
    expect([at('').fromMs - back.fromMs, back.isLast]).toEqual([1_800_000, false]);
    const first = { ...at(''), fromMs: begin, toMs: begin + 3_600_000 };
    expect(moved(first, -1, begin, now).fromMs).toBe(begin);
    const again = moved({ ...at(''), ...back }, 1, begin, now);
    expect([again.fromMs, again.toMs, again.isLast]).toEqual([at('').fromMs, at('').toMs, true]);
    expect(moved(at(''), 1, begin, now).toMs).toBe(at('').toMs);
  });

  test('marks are on whole minutes, few, and inside', () => {
    fc.assert(
      fc.property(fc.integer({ min: 120_000, max: 40 * 86_400_000 }), (length) => {
        const found = marks(begin, begin + length, 8);
        expect(found.length).toBeLessThanOrEqual(9);
        for (const one of found) {
          expect(one % 60_000).toBe(0);
          expect(one).toBeGreaterThanOrEqual(begin);
          expect(one).toBeLessThanOrEqual(begin + length);
        }
      }),
    );
  });
});
