import { describe, expect, test } from 'vitest';

import type { QuotaView } from '../api/tenancy';
import { standing } from './standing';

const quota = (
  owner: string,
  guaranteed: number,
  limit: number | null,
  group = '*',
): QuotaView => ({
  owner,
  group,
  provisioning: '*',
  guaranteed_gpus: guaranteed,
  limit_gpus: limit,
  held_gpus: 0,
});
const project = (id: string, used: number, workspace = 'w', limit: number | null = null) => ({
  id,
  workspace,
  quota_gpus: limit,
  used_gpus: used,
});

describe('standing', () => {
  test.each([
    // held, guaranteed, limit → borrowed, lent
    [40, 32, 64, 8, 0],
    [20, 32, 64, 0, 12],
    [40, 0, 32, 8, 0],
    [40, 0, null, 0, 0],
  ])(
    '%i held of %i guaranteed and at most %s borrows %i and leaves %i',
    (held, sure, limit, borrowed, lent) => {
      const [one] = standing(
        [project('a', held)],
        [],
        [quota('project:a', sure, limit)],
        new Map(),
      );

      expect([one!.borrowed, one!.lent]).toEqual([borrowed, lent]);
    },
  );

  test('guarantees in several machine groups count together', () => {
    const quotas = [quota('project:a', 8, null, 'h100'), quota('project:a', 16, null, 'a100')];

    expect(standing([project('a', 0)], [], quotas, new Map())[0]!.guaranteed).toBe(24);
  });

  test('projects stand under their workspaces, the largest first', () => {
    const all = [project('a', 1, 'x'), project('b', 9, 'y'), project('c', 3, 'x')];
    const rows = standing(all, [], [], new Map([['a', 5]]));

    expect(rows.map((one) => [one.id, one.isWorkspace, one.held])).toEqual([
      ['y', true, 9],
      ['b', false, 9],
      ['x', true, 4],
      ['c', false, 3],
      ['a', false, 1],
    ]);
    expect(rows[2]!.asked).toBe(5);
  });

  test('where all are in one workspace, there is no line for it', () => {
    expect(standing([project('a', 1)], [], [], new Map()).map((one) => one.id)).toEqual(['a']);
  });
});
