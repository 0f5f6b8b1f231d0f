// How each square looks: four bytes, RGB and a pattern. State is colour *and* pattern.

import type { Field, JobRow } from '../api/liveMoment';
import { isKind, type ColorBy, type KindBy } from './spec';
import { CODE, STATES, valueOf, type Bytes, type State, type Units } from './units';

/** The pattern's code, in the low bits of the fourth byte; shared with the shader and the canvas. */
export const PATTERN: Record<State, number> = {
  running: 0,
  idle: 1,
  free: 2,
  reserved: 3,
  draining: 4,
  repairing: 5,
  faulty: 6,
  lost: 7,
  starting: 8,
};
export const DIM = 16;
export const RAMP_STEPS = 32;

type Rgb = readonly [number, number, number];

export interface Palette {
  ramp: readonly Rgb[];
  states: Record<State, Rgb>;
  categories: readonly Rgb[];
  background: Rgb;
  /** The hairline of solid squares: keeps the low end of the ramp visible. */
  edge: Rgb;
}

const parse = (hex: string): Rgb => {
  const value = parseInt(hex.trim().slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
};

/** The tokens of a theme; it must be the one that is shown, for they come from the style sheet. */
export function palette(theme: 'dark' | 'light'): Palette {
  assertShown(theme);
  const style = getComputedStyle(document.documentElement);
  const token = (name: string): Rgb => parse(style.getPropertyValue(`--${name}`) || '#000000');
  const stops = Array.from({ length: 8 }, (_, i) => token(`ramp${i}`));
  return {
    ramp: Array.from({ length: RAMP_STEPS + 1 }, (_, i) => between(stops, i / RAMP_STEPS)),
    states: {
      running: token('ramp5'),
      idle: token('idle'),
      free: token('free'),
      reserved: token('reserved'),
      repairing: token('repairing'),
      starting: token('ramp6'),
      draining: token('draining'),
      faulty: token('faulty'),
      lost: token('faulty'),
    },
    categories: Array.from({ length: 8 }, (_, i) => token(`cat${i}`)),
    background: token('bg'),
    edge: token('ramp5'),
  };
}

function assertShown(theme: string): void {
  const shown = document.documentElement.dataset['theme'];
  if (shown !== theme)
    throw new Error(`asked for the colours of ${theme} while ${shown ?? 'none'} shows`);
}

function between(stops: readonly Rgb[], share: number): Rgb {
  const at = Math.min(share * (stops.length - 1), stops.length - 1.0001);
  const low = stops[Math.floor(at)]!;
  const high = stops[Math.floor(at) + 1]!;
  const part = at - Math.floor(at);
  return [0, 1, 2].map((i) => Math.round(low[i]! + (high[i]! - low[i]!) * part)) as unknown as Rgb;
}

/** 0..1 on the ramp; NaN if unknown. */
export function shareOf(field: Field, byte: number | undefined): number {
  const [low, high] = field.shown;
  return Math.min(1, Math.max(0, (valueOf(field, byte) - low) / (high - low)));
}

/**
 * A colour for each name: the one its hash says, or the next that nobody has yet. The same names give
 * the same colours everywhere; two share one only when there are more names than colours.
 */
export function categoriesOf(names: readonly string[], count: number): Map<string, number> {
  const found = new Map<string, number>();
  const taken = new Set<number>();
  for (const name of [...new Set(names)].sort()) {
    if (taken.size === count) taken.clear();
    let at = hashOf(name) % count;
    while (taken.has(at)) at = (at + 1) % count;
    taken.add(at);
    found.set(name, at);
  }
  return found;
}

/** FNV-1a. */
function hashOf(text: string): number {
  let hash = 2166136261;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 16777619);
  return hash >>> 0;
}

export interface Look {
  color: ColorBy;
  /** 1 iff the row is to be seen; the rest is dimmed. Null: all are. */
  lit: Uint8Array | null;
}

const word = ([r, g, b]: Rgb, pattern: number): number =>
  (r | (g << 8) | (b << 16) | (pattern << 24)) >>> 0;

/** (count, 4) bytes: RGB and the pattern. One table look-up per row, however it is coloured. */
export function paint(
  units: Units,
  readings: { bytes: Bytes; fields: ReadonlyMap<string, Field> },
  colors: Palette,
  look: Look,
): Uint8Array {
  const out = new Uint32Array(units.count);
  const states = STATES.map((state) => word(colors.states[state], PATTERN[state]));
  const { lit } = look;
  const dim = (DIM << 24) >>> 0;
  const field = readings.fields.get(look.color);
  const column = readings.bytes.get(look.color);
  const ramp = field && column ? rampOf(field, colors) : null;
  const kinds = isKind(look.color) ? kindsOf(units, look.color, colors) : null;
  for (let row = 0; row < units.count; row++) {
    const state = units.state[row]!;
    let value = states[state]!;
    if (state === CODE.running) {
      if (ramp) value = ramp[column![row]!]!;
      else if (kinds) value = kinds[units.job[row]! + 1]!;
    }
    out[row] = lit && !lit[row] ? value | dim : value;
  }
  return new Uint8Array(out.buffer);
}

/** A look for each byte of a reading. */
function rampOf(field: Field, colors: Palette): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, byte) => {
    const share = shareOf(field, byte);
    if (Number.isNaN(share)) return word(colors.states.running, PATTERN.running);
    return word(colors.ramp[Math.round(share * RAMP_STEPS)]!, PATTERN.running);
  });
}

/** A look for each job, and at 0 for none. */
function kindsOf(units: Units, by: KindBy, colors: Palette): Uint32Array {
  const nameOf = (job: JobRow | undefined): string => (job && by !== 'state' ? job[NAME[by]] : '');
  const names = Array.from(units.jobs, nameOf);
  const categories = categoriesOf(names.filter(Boolean), colors.categories.length);
  const plain = word(colors.states.running, PATTERN.running);
  const looks = new Uint32Array(units.jobs.length + 1).fill(plain);
  names.forEach((name, at) => {
    const category = categories.get(name);
    if (category !== undefined) looks[at + 1] = word(colors.categories[category]!, PATTERN.running);
  });
  return looks;
}

const NAME = { project: 'project', owner: 'owner', job: 'id' } as const;
