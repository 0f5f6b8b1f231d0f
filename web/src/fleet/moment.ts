// Which moment the fleet page shows: now, a pause, or one of the last day.
//
// The URL holds `at=` (Unix seconds) while a moment of the past is shown. A pause is not in the URL:
// it is of one's own eyes, not of the view.

import { computed, signal } from '@preact/signals';

import type { Moment } from '../api/liveMoment';
import { newest } from '../api/liveSocket';

/** What was shown when someone pressed Space; null: nobody did. */
export const paused = signal<Moment | null>(null);
/** A moment of the past that is being looked at (replay.ts fills it). */
export const replayed = signal<Moment | null>(null);

export const moment = computed<Moment | null>(() => replayed.value ?? paused.value ?? newest.value);

export function togglePause(): void {
  paused.value = paused.value ? null : newest.value;
}
