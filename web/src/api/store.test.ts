import { expect, test } from 'vitest';

import { setJobs, touched } from './store';
import type { JobView } from './types';

const ended = (n: number) =>
  ({ id: `j-${n}`, n, phase: 'succeeded', ended_ms: n }) as unknown as JobView;

test('of what was touched, only the last is kept, however long the page is open', () => {
  for (let n = 0; n < 5_000; n++) setJobs([ended(n)]);
  setJobs([ended(4_001)]);

  expect(touched.value.size).toBe(1_000);
  expect(touched.value.get('j-4001')).toBe(2);
  expect(touched.value.has('j-0')).toBe(false);
});
