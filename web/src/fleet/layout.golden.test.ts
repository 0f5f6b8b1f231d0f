// Layouts as they were when somebody last looked at them (golden/*.json), and that no change of the
// groups makes those that stay swap places. To renew after a wanted change: vitest run -u, and look.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { layout, type Box, type Group, type Layout, type Shape } from './layout';

const SHAPES: Shape[] = ['blocks', 'cards', 'shelf', 'bars'];
const BOXES: Record<string, Box> = {
  desk: { width: 970, height: 560, grain: 1 },
  wide: { width: 1900, height: 900, grain: 0.5 },
  small: { width: 420, height: 300, grain: 1 },
};

/** Groups of nodes of 8, of the given numbers of devices; the last node may be smaller. */
function groupsOf(sizes: readonly number[]): { groups: Group[]; count: number } {
  let next = 0;
  const groups = sizes.map((size, i) => {
    const rows = Array.from({ length: size }, () => next++);
    const cells: number[][] = [];
    for (let at = 0; at < rows.length; at += 8) cells.push(rows.slice(at, at + 8));
    return { key: `g${i}`, cells, ...(i % 2 ? {} : { quota: Math.round(size * 0.8) }) };
  });
  return { groups, count: next };
}

const FLEETS: Record<string, number[]> = {
  '16 GPUs': [8, 8],
  '1,024 GPUs in four blocks': [256, 256, 256, 256],
  '5,120 GPUs in ten blocks': Array.from({ length: 10 }, () => 512),
  'jobs of all sizes': [1024, 512, 512, 256, 128, 64, 64, 32, 8, 8, 8, 4, 2, 1, 1, 1],
  'uneven blocks': [512, 504, 96, 8, 3],
};

/** Enough to see what moved, and a sum over every place that sees the rest. */
function digest(made: Layout): object {
  let sum = 2166136261;
  for (const values of [made.x, made.y]) {
    for (const value of values) sum = Math.imul(sum ^ Math.round(value * 4), 16777619) >>> 0;
  }
  return {
    unit: made.unit,
    height: made.height,
    frames: made.frames.map(({ group, x, y, width, height, labelled, quota }) =>
      [group, x, y, width, height, labelled ? 'named' : '', Number.isNaN(quota) ? '' : quota].join(
        ' ',
      ),
    ),
    places: sum,
  };
}

describe('golden layouts', () => {
  test.each(SHAPES)('%s', async (shape) => {
    const found: Record<string, object> = {};
    for (const [fleet, sizes] of Object.entries(FLEETS)) {
      const { groups, count } = groupsOf(sizes);
      for (const [name, box] of Object.entries(BOXES)) {
        found[`${fleet}, ${name}`] = digest(layout(groups, shape, count, box));
      }
    }

    await expect(`${JSON.stringify(found, null, 1)}\n`).toMatchFileSnapshot(
      `./golden/${shape}.json`,
    );
  });
});

const sizes = fc.array(fc.integer({ min: 1, max: 120 }), { minLength: 1, maxLength: 24 });
const box = fc.record({
  width: fc.integer({ min: 420, max: 2000 }),
  height: fc.integer({ min: 200, max: 1400 }),
  grain: fc.constantFrom(1, 0.5),
});

/** Keys of groups as one reads the page: down, then to the right. */
function read(made: Layout, groups: readonly Group[]): string[] {
  return [...made.frames]
    .sort((a, b) => a.y - b.y || a.x - b.x)
    .map((frame) => groups[frame.group]!.key);
}

describe('order', () => {
  test('groups are read in the order in which they were given', () => {
    fc.assert(
      fc.property(sizes, fc.constantFrom(...SHAPES), box, (given, shape, b) => {
        const { groups, count } = groupsOf(given);
        expect(read(layout(groups, shape, count, b), groups)).toEqual(groups.map((one) => one.key));
      }),
      { numRuns: 150 },
    );
  });

  test('whoever leaves, comes or grows: those that stay keep their order', () => {
    const change = fc.record({ at: fc.nat(), size: fc.integer({ min: 0, max: 200 }) });
    fc.assert(
      fc.property(
        sizes,
        change,
        fc.constantFrom(...SHAPES),
        box,
        (given, { at, size }, shape, b) => {
          const before = groupsOf(given);
          const next = given.slice();
          next[at % given.length] = size;
          const after = groupsOf(next);
          const stay = (keys: string[]): string[] =>
            keys.filter((key) => key !== `g${at % given.length}`);
          expect(stay(read(layout(after.groups, shape, after.count, b), after.groups))).toEqual(
            stay(read(layout(before.groups, shape, before.count, b), before.groups)),
          );
        },
      ),
      { numRuns: 150 },
    );
  });

  test('devices of a group are in the order of its rows, whatever else there is', () => {
    fc.assert(
      fc.property(sizes, fc.constantFrom(...SHAPES), box, (given, shape, b) => {
        const { groups, count } = groupsOf(given);
        const alone = layout(groups.slice(0, 1), shape, count, b);
        const among = layout(groups, shape, count, b);
        const order = (made: Layout): number[] => {
          const rows = groups[0]!.cells[0]!;
          const [x0, y0] = [made.x[rows[0]!]!, made.y[rows[0]!]!];
          expect(rows.every((row) => made.x[row]! >= x0 && made.y[row]! >= y0)).toBe(true);
          return [...rows].sort((m, n) => made.y[m]! - made.y[n]! || made.x[m]! - made.x[n]!);
        };
        // A node's own rows keep their places towards each other in blocks and cards.
        if (shape === 'blocks' || shape === 'cards') expect(order(among)).toEqual(order(alone));
        else order(among);
      }),
      { numRuns: 60 },
    );
  });
});
