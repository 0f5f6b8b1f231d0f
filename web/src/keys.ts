// The keyboard map, in one place. Digits, brackets and panning keys are places on the keyboard
// (event.code), so that AZERTY and Dvorak have them where everybody has; the others are letters.

import { signal } from '@preact/signals';

import { togglePause } from './fleet/moment';
import { stepInTime } from './fleet/replay';
import { COLORS, GROUPS } from './fleet/spec';
import type { Key } from './i18n';
import { go, query, route, setQuery } from './router';

export const helpOpen = signal(false);

/** What `[`, `]` and Space do, of the page that is open; a page sets it and takes it away. */
export interface TimeKeys {
  step: (direction: -1 | 1) => void;
  toggleLive: () => void;
}
export const timeKeys = signal<TimeKeys | null>(null);

const ofFleet: TimeKeys = { step: stepInTime, toggleLive: togglePause };

const PLACES: Record<string, string> = { f: '/', j: '/jobs', q: '/queue', u: '/usage' };
const CHORD_MS_MAX = 1200;
const PAN_PX = 120;
const PANS: Record<string, [number, number]> = {
  KeyI: [0, -1],
  KeyK: [0, 1],
  KeyJ: [-1, 0],
  KeyL: [1, 0],
};

/** The list that `?` shows. Chords are parted by ` · `. */
export const KEYS: readonly { title: Key; keys: readonly [string, Key][] }[] = [
  {
    title: 'help.everywhere',
    keys: [
      ['/', 'help.search'],
      ['g f · g j · g q · g u', 'help.go'],
      ['I · J · K · L', 'help.pan'],
      ['Esc', 'help.clear'],
      ['?', 'help.help'],
    ],
  },
  {
    title: 'help.map',
    keys: [
      ['1 … 5', 'help.group'],
      ['Shift 1 … 5', 'help.color'],
      ['← · → · ↑ · ↓', 'help.move'],
      ['Enter', 'help.open'],
      ['d', 'help.diagnose'],
      ['[ · ]', 'help.step'],
      ['Space', 'help.pause'],
    ],
  },
  {
    title: 'help.job',
    keys: [
      ['↑ · ↓', 'help.rows'],
      ['d', 'help.diagnose'],
      ['[ · ]', 'help.time'],
      ['Space', 'help.live'],
    ],
  },
];

let chordAtMs = -Infinity;

const typing = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement &&
  (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName));

export function listenToKeys(): void {
  document.addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey) return;
    if (typing(event.target) || document.querySelector('dialog[open]')) return;
    if (pressed(event)) event.preventDefault();
  });
}

function pressed(event: KeyboardEvent): boolean {
  const chord = performance.now() - chordAtMs < CHORD_MS_MAX;
  chordAtMs = -Infinity;
  const place = PLACES[event.key.toLowerCase()];
  if (chord && place) {
    go(place);
    return true;
  }
  return letter(event) || position(event);
}

function letter(event: KeyboardEvent): boolean {
  switch (event.key) {
    case '/':
      document.querySelector<HTMLInputElement>('#search')?.focus();
      return true;
    case '?':
      helpOpen.value = true;
      return true;
    case 'g':
      chordAtMs = performance.now();
      return true;
    case 'd':
      return diagnose();
    case 'Escape':
      setQuery({ where: null, select: null, from: null, to: null });
      return true;
    default:
      return false;
  }
}

function position(event: KeyboardEvent): boolean {
  if (timed(event)) return true;
  const pan = PANS[event.code];
  if (pan && !event.shiftKey) return panned(pan);
  const digit = /^Digit([1-5])$/.exec(event.code);
  if (!digit || route.value.page !== 'fleet') return false;
  const at = Number(digit[1]) - 1;
  setQuery(event.shiftKey ? { color: COLORS[at]! } : { group: GROUPS[at]! });
  return true;
}

/** Space and the two keys right of P, wherever a layout has its brackets: on the map the last day, on a
 * job what it shows.
 */
function timed(event: KeyboardEvent): boolean {
  const keys = route.value.page === 'fleet' ? ofFleet : timeKeys.value;
  const step =
    event.key === '[' || event.code === 'BracketLeft'
      ? -1
      : event.key === ']' || event.code === 'BracketRight'
        ? 1
        : 0;
  if (!keys) return false;
  if (step) keys.step(step);
  // On a button or a link the space bar is theirs.
  else if (event.key === ' ' && !(event.target as Element).closest('button, a, select'))
    keys.toggleLive();
  else return false;
  return true;
}

/** The job that one looks at: of the page, of the row that has the focus, or the one selected. */
function diagnose(): boolean {
  const at = route.value;
  const row = document.activeElement?.closest('tr')?.querySelector<HTMLAnchorElement>('.row-link');
  const ofRow = row ? /^\/jobs\/([^/]+)$/.exec(row.pathname)?.[1] : undefined;
  const selected = /^job:(.+)$/.exec(query.value.get('select') ?? '')?.[1];
  const id =
    at.page === 'job'
      ? encodeURIComponent(at.id)
      : (ofRow ?? (selected && encodeURIComponent(selected)));
  if (!id) return false;
  go(`/jobs/${id}/diagnose`);
  return true;
}

/** Moves what scrolls on this page; sideways, where nothing scrolls, in time. */
function panned([x, y]: readonly [number, number]): boolean {
  if (x && timeKeys.value) {
    timeKeys.value.step(x < 0 ? -1 : 1);
    return true;
  }
  const boxes = document.querySelectorAll<HTMLElement>('.map-room, .log, .table-box, #content');
  const box = [...boxes].find((one) =>
    x ? one.scrollWidth > one.clientWidth + 1 : one.scrollHeight > one.clientHeight + 1,
  );
  box?.scrollBy({ left: x * PAN_PX, top: y * PAN_PX });
  return box !== undefined;
}
