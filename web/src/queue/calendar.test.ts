import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import type { ReservationView } from '../api/tenancy';
import type { JobView } from '../api/types';
import { bars, ends, expected, lanes } from './calendar';

const NOW = 1_000_000_000_000;
const H = 3_600_000;

const reservation = (id: string, from: number, to: number): ReservationView => ({
  id,
  project: 'p',
  gpus: 8,
  members: 2,
  profile: '',
  begin_ms: NOW + from * H,
  end_ms: NOW + to * H,
  by: '',
  state: 'waiting',
  held_gpus: 0,
});

describe('bars', () => {
  test.each([
    [-5, -1, []],
    [30, 40, []],
    [-2, 3, [['open', true, false, 0, 3]]],
    [5, 40, [['waiting', false, true, 5, 24]]],
    [0, 24, [['open', false, false, 0, 24]]],
  ])('a reservation from %i h to %i h is drawn as %j', (from, to, drawn) => {
    const found = bars([reservation('a', from, to)], [], NOW, '24h');
    expect(
      found.map((one) => [
        one.kind,
        one.cutLeft,
        one.cutRight,
        (one.fromMs - NOW) / H,
        (one.toMs - NOW) / H,
      ]),
    ).toEqual(drawn);
  });

  test('on a lane no two meet, and every bar is on one', () => {
    const some = fc.array(
      fc.tuple(fc.integer({ min: -10, max: 30 }), fc.integer({ min: 1, max: 20 })),
      { maxLength: 30 },
    );
    fc.assert(
      fc.property(some, (given) => {
        const all = bars(
          given.map(([from, length], i) => reservation(`r${i}`, from, from + length)),
          [],
          NOW,
          '24h',
        );
        const found = lanes(all);
        expect(found.flat().length).toBe(all.length);
        for (const lane of found) {
          lane
            .slice(1)
            .forEach((bar, i) => expect(bar.fromMs).toBeGreaterThanOrEqual(lane[i]!.toMs));
        }
      }),
    );
  });
});

const job = (of: Partial<JobView>): JobView =>
  ({ members: 2, gpus: 8, time_ms: 0, running_ms: 0, waits: null, ...of }) as JobView;

test('only starts that are known and near are expected; one that is overdue is now', () => {
  const at = (ms: number): JobView =>
    job({ waits: { code: '', text: '', basis: '', earliest_ms: ms } });
  const found = expected([at(NOW + H), at(0), at(NOW - H), at(NOW + 30 * H), job({})], NOW, '24h');

  expect(found.map((one) => one.atMs - NOW)).toEqual([H, 0]);
});

test('time limits give back their GPUs in the slot in which they end', () => {
  const running = [
    job({ running_ms: NOW - H, time_ms: 2 * H }),
    job({ running_ms: NOW - H, time_ms: 0 }),
    job({ running_ms: NOW - H, time_ms: H / 2 }),
    job({ running_ms: NOW, time_ms: 100 * H }),
  ];

  expect(ends(running, NOW, '6h', 6)).toEqual([0, 16, 0, 0, 0, 0]);
});
