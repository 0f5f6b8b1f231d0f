import { afterEach, expect, test } from 'vitest';

import { setAll } from '../api/store';
import type { BrokenView, JobView } from '../api/types';
import { breachCount, breaches, breachList, ranked } from './breaches';

const rule = (rule: string, severity: BrokenView['severity'], since_ms = 5): BrokenView => ({
  rule,
  severity,
  since_ms,
  text: rule,
});

const job = (id: string, gpus: number, ...broken: BrokenView[]): JobView =>
  ({ id, n: 1, members: 2, gpus, phase: 'running', broken }) as unknown as JobView;

afterEach(() => setAll([]));

test('the gravest come first, then who holds most, then the oldest', () => {
  const found = ranked([
    job('small', 1, rule('a', 'warning')),
    job('keeps', 8),
    job('idle', 1, rule('b', 'critical'), rule('a', 'warning')),
    job('large', 8, rule('a', 'warning', 7)),
    job('older', 8, rule('a', 'warning', 6)),
  ]);

  expect(found.map((one) => one.job.id)).toEqual(['idle', 'older', 'large', 'small']);
  expect(found[0]).toMatchObject({ worst: { rule: 'b' }, more: 1 });
});

test('the map draws one contour round all devices of those who break a rule', () => {
  setAll([job('a-1', 4, rule('x', 'info')), job('b-2', 4), job('c-3', 0.5, rule('x', 'critical'))]);

  expect(breaches.value).toBe('job:c-3 job:a-1');
  expect(breachCount.value).toBe(9);
  setAll([job('a-1', 4)]);
  expect(breaches.value).toBe('');
  expect(breachList.value).toEqual([]);
});
