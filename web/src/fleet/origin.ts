// Where each square of a picture was in the picture before: by the devices behind it.

import type { Behind } from './spec';

/** The devices of a picture: `rows` are those behind each square; null where a square is a device. */
export interface Pictured {
  places: { version: number; count: number };
  rows: Behind | null;
}

/**
 * For each square now the one that showed its first device before, -1 where none did; null when the
 * two are of different fleets, so that nothing can fly.
 */
export function originOf(before: Pictured, now: Pictured): Int32Array | null {
  if (before.places.version !== now.places.version) return null;
  const { count } = now.places;
  const was = new Int32Array(count);
  if (before.rows) {
    was.fill(-1);
    before.rows.forEach((devices, at) => {
      for (const device of devices) was[device] = at;
    });
  } else for (let device = 0; device < count; device++) was[device] = device;
  return now.rows ? Int32Array.from(now.rows, ([first]) => was[first!]!) : was;
}
