// Which square is under the pointer: one lookup, however many there are.

import type { Layout } from './layout';

/**
 * Squares of one size that don't overlap have at most one top left corner per cell of that size; so
 * a point can only be in the squares that begin in its own cell or the three to the left and above.
 */
export class HitGrid {
  private readonly columns: number;
  private readonly rows: number;
  private readonly cells: Int32Array;

  constructor(private readonly layout: Layout) {
    const { unit, x, y } = layout;
    let right = 0;
    let bottom = 0;
    for (let row = 0; row < x.length; row++) {
      if (x[row]! > right) right = x[row]!;
      if (y[row]! > bottom) bottom = y[row]!;
    }
    this.columns = Math.floor(right / unit) + 1;
    this.rows = Math.floor(bottom / unit) + 1;
    this.cells = new Int32Array(this.columns * this.rows).fill(-1);
    for (let row = 0; row < x.length; row++) {
      if (Number.isNaN(x[row]!)) continue;
      this.cells[Math.floor(y[row]! / unit) * this.columns + Math.floor(x[row]! / unit)] = row;
    }
  }

  /** The unit at a point, or -1. */
  at(px: number, py: number): number {
    const { unit, x, y } = this.layout;
    const cx = Math.floor(px / unit);
    const cy = Math.floor(py / unit);
    for (let gy = Math.max(0, cy - 1); gy <= Math.min(cy, this.rows - 1); gy++) {
      for (let gx = Math.max(0, cx - 1); gx <= Math.min(cx, this.columns - 1); gx++) {
        const row = this.cells[gy * this.columns + gx]!;
        if (row < 0) continue;
        const inside = px >= x[row]! && px < x[row]! + unit && py >= y[row]! && py < y[row]! + unit;
        if (inside) return row;
      }
    }
    return -1;
  }
}

export type Direction = 'left' | 'right' | 'up' | 'down';

/** The nearest square in a direction: along it first, sideways counts double. -1 at the edge. */
export function neighbour(layout: Layout, from: number, direction: Direction): number {
  const { x, y, unit } = layout;
  const sign = direction === 'left' || direction === 'up' ? -1 : 1;
  const level = direction === 'left' || direction === 'right';
  let best = -1;
  let bestFar = Infinity;
  for (let row = 0; row < x.length; row++) {
    if (Number.isNaN(x[row]!)) continue;
    const dx = x[row]! - x[from]!;
    const dy = y[row]! - y[from]!;
    const ahead = (level ? dx : dy) * sign;
    const aside = Math.abs(level ? dy : dx);
    if (ahead < unit * 0.5 || (level && aside > unit * 0.6)) continue;
    const far = ahead + 2 * aside;
    if (far < bestFar) {
      bestFar = far;
      best = row;
    }
  }
  return best;
}
