import { expect, test } from 'vitest';

import { routeOf } from './router';

test.each([
  ['/', { page: 'fleet' }],
  ['/queue/', { page: 'queue' }],
  ['/jobs', { page: 'jobs' }],
  ['/jobs/digits-42', { page: 'job', id: 'digits-42', tab: 'overview' }],
  ['/jobs/digits-42/logs', { page: 'job', id: 'digits-42', tab: 'logs' }],
  ['/nowhere', { page: 'none' }],
  ['/queue/x', { page: 'none' }],
])('%s is a page', (path, route) => {
  expect(routeOf(path)).toEqual(route);
});
