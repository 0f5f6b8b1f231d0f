import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { HitGrid, neighbour } from './hit';
import { cellShape, layout, type Box, type Group, type Layout, type Shape } from './layout';

const SHAPES: Shape[] = ['blocks', 'cards', 'shelf', 'bars'];

const box = fc.record({
  width: fc.integer({ min: 420, max: 2400 }),
  height: fc.integer({ min: 160, max: 1600 }),
  grain: fc.constantFrom(1, 0.5),
});

/** Groups of cells; the rows are numbered through, as `Units` does. */
const fleet = fc
  .array(fc.array(fc.integer({ min: 0, max: 16 }), { minLength: 0, maxLength: 40 }), {
    minLength: 0,
    maxLength: 24,
  })
  .map((sizes) => {
    let next = 0;
    const groups: Group[] = sizes.map((cells, i) => ({
      key: `group-${i}`,
      cells: cells.map((size) => Array.from({ length: size }, () => next++)),
      quota: i % 3 === 0 ? i * 7 : undefined!,
    }));
    return { groups, count: next };
  });

const everyShape = fc.constantFrom(...SHAPES);

function overlaps({ x, y, unit }: Layout): boolean {
  const rows = [...x.keys()].sort((a, b) => y[a]! - y[b]! || x[a]! - x[b]!);
  return rows.some((a, i) => {
    for (let j = i + 1; j < rows.length && y[rows[j]!]! < y[a]! + unit - 1e-3; j++) {
      if (Math.abs(x[rows[j]!]! - x[a]!) < unit - 1e-3) return true;
    }
    return false;
  });
}

describe('layout', () => {
  test('squares never overlap and are all inside', () => {
    fc.assert(
      fc.property(fleet, everyShape, box, ({ groups, count }, shape, b) => {
        const made = layout(groups, shape, count, b);
        expect(overlaps(made)).toBe(false);
        for (let row = 0; row < count; row++) {
          expect(made.x[row]).toBeGreaterThanOrEqual(0);
          expect(made.x[row]! + made.unit).toBeLessThanOrEqual(b.width + 1e-3);
          expect(made.y[row]).toBeGreaterThanOrEqual(0);
          expect(made.y[row]! + made.unit).toBeLessThanOrEqual(made.height + 1e-3);
        }
      }),
      { numRuns: 150 },
    );
  });

  test('every group with a unit has a frame that holds all its squares', () => {
    fc.assert(
      fc.property(fleet, everyShape, box, ({ groups, count }, shape, b) => {
        const made = layout(groups, shape, count, b);
        const frames = new Map(made.frames.map((frame) => [frame.group, frame]));
        groups.forEach((group, i) => {
          const rows = group.cells.flat();
          expect(frames.has(i)).toBe(rows.length > 0);
          for (const row of rows) {
            const f = frames.get(i)!;
            expect(made.x[row]).toBeGreaterThanOrEqual(f.x);
            expect(made.x[row]! + made.unit).toBeLessThanOrEqual(f.x + f.width + 1e-3);
            expect(made.y[row]).toBeGreaterThanOrEqual(f.y);
            expect(made.y[row]! + made.unit).toBeLessThanOrEqual(f.y + f.height + 1e-3);
          }
        });
      }),
      { numRuns: 100 },
    );
  });

  test('the same groups give the same layout', () => {
    fc.assert(
      fc.property(fleet, everyShape, box, ({ groups, count }, shape, b) => {
        expect(layout(groups, shape, count, b)).toEqual(layout(groups, shape, count, b));
      }),
      { numRuns: 30 },
    );
  });

  test('it fits the height whenever some smaller square would', () => {
    fc.assert(
      fc.property(fleet, fc.constantFrom<Shape>('blocks', 'shelf'), box, (f, shape, b) => {
        const made = layout(f.groups, shape, f.count, b);
        if (made.unit > 3) expect(made.height).toBeLessThanOrEqual(b.height + 1e-3);
      }),
    );
  });

  test('adding a group at the end moves nobody of a shelf above it, at the same size', () => {
    const group = (key: string, from: number, size: number): Group => ({
      key,
      cells: [Array.from({ length: size }, (_, i) => from + i)],
    });
    const b: Box = { width: 800, height: 600, grain: 1 };
    const few = [group('a', 0, 64), group('b', 64, 32)];
    const before = layout(few, 'shelf', 96, b);
    const after = layout([...few, group('c', 96, 8)], 'shelf', 104, b);

    expect(after.unit).toBe(before.unit);
    expect([...after.x.slice(0, 96)]).toEqual([...before.x]);
    expect([...after.y.slice(0, 96)]).toEqual([...before.y]);
  });

  test.each([
    [640, 8, 1000],
    [1280, 8, 560],
  ])('%i nodes of %i keep squares of 3 px or more at width %i', (nodes, gpus, width) => {
    let next = 0;
    const cells = Array.from({ length: nodes }, () => Array.from({ length: gpus }, () => next++));
    const made = layout([{ key: 'all', cells }], 'blocks', next, { width, height: 560, grain: 1 });

    expect(made.unit).toBeGreaterThanOrEqual(3);
  });

  test.each([
    [1, false, 1, 1],
    [2, false, 1, 2],
    [4, false, 2, 2],
    [8, false, 2, 4],
    [8, true, 8, 1],
    [16, true, 8, 2],
    [16, false, 4, 4],
  ])('a node of %i (lying: %s) is %i × %i', (units, lying, columns, rows) => {
    expect(cellShape(units, lying)).toEqual({ columns, rows });
  });
});

describe('hit test', () => {
  test('finds exactly the square under a point', () => {
    fc.assert(
      fc.property(fleet, everyShape, box, fc.nat(), ({ groups, count }, shape, b, seed) => {
        const made = layout(groups, shape, count, b);
        const grid = new HitGrid(made);
        if (count === 0) return;
        const row = seed % count;
        expect(grid.at(made.x[row]! + made.unit / 2, made.y[row]! + made.unit / 2)).toBe(row);
        expect(grid.at(made.x[row]! + made.unit - 0.01, made.y[row]!)).toBe(row);
        expect(grid.at(-1, -1)).toBe(-1);
        expect(grid.at(b.width + 50, made.height + 50)).toBe(-1);
      }),
      { numRuns: 60 },
    );
  });

  test('gaps between squares hit nothing', () => {
    const made = layout([{ key: 'a', cells: [[0, 1]] }], 'cards', 2, {
      width: 800,
      height: 400,
      grain: 1,
    });

    expect(new HitGrid(made).at(made.x[0]! + made.unit + 0.5, made.y[0]! + 5)).toBe(-1);
  });

  test('arrows walk a row and stop at its ends', () => {
    const made = layout([{ key: 'a', cells: [[0], [1], [2], [3]] }], 'blocks', 4, {
      width: 800,
      height: 80,
      grain: 1,
    });
    const walk = [0];
    for (let at = 0; (at = neighbour(made, at, 'right')) >= 0;) walk.push(at);

    expect(walk).toEqual([0, 1, 2, 3]);
    expect(neighbour(made, 0, 'left')).toBe(-1);
  });
});
