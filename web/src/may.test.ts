import { afterEach, expect, test } from 'vitest';

import { me } from './api/store';
import type { Role } from './api/types';
import { barred, maySubmit } from './may';

afterEach(() => (me.value = null));

test.each<[Role, string, boolean, boolean]>([
  ['owner', 'root', true, true],
  ['member', 'sora', true, true],
  ['member', 'yuna', false, true],
  ['viewer', 'sora', false, false],
  ['viewer', 'yuna', false, false],
])('%s %s may act on a job of sora: %s; may submit: %s', (role, user, acts, submits) => {
  me.value = { user, role };

  expect(barred({ owner: 'sora' }) === '').toBe(acts);
  expect(maySubmit()).toBe(submits);
});

test('while nobody knows who looks nothing is in the way', () => {
  expect(barred({ owner: 'sora' })).toBe('');
  expect(maySubmit()).toBe(true);
});
