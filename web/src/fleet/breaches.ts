// What breaks a rule now, as a filter of the map: `job:a-1 job:b-2 node:n-3`.
//
// The daemon's rules say it (GET /v1/violations); one without rules answers 404 and is asked no more.

import { signal } from '@preact/signals';

/** Terms as in the search box; '' while nothing breaks a rule. */
export const breaches = signal('');
/** How many devices that is. */
export const breachCount = signal(0);
