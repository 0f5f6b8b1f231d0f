// How each square looks: four bytes, RGB and a pattern. State is colour *and* pattern.

import type { ColorBy } from './spec';
import type { Jobs, Readings, Units } from './units';
import { stateAt, type State } from './units';

/** The pattern's code, in the low bits of the fourth byte; shared with the shader and the canvas. */
export const PATTERN: Record<State, number> = {
  running: 0,
  idle: 1,
  free: 2,
  starting: 3,
  draining: 4,
  faulty: 6,
  lost: 7,
};
export const DIM = 16;
export const RAMP_STEPS = 32;

type Rgb = readonly [number, number, number];

export interface Palette {
  ramp: readonly Rgb[];
  states: Record<State, Rgb>;
  categories: readonly Rgb[];
  background: Rgb;
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
      starting: token('reserved'),
      draining: token('draining'),
      faulty: token('faulty'),
      lost: token('faulty'),
    },
    categories: Array.from({ length: 8 }, (_, i) => token(`cat${i}`)),
    background: token('bg'),
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

/** What stands for the two ends of the ramp. */
export const SCALE: Record<
  Exclude<ColorBy, 'project'>,
  { low: number; high: number; unit: string }
> = {
  util: { low: 0, high: 100, unit: '%' },
  memory: { low: 0, high: 100, unit: '%' },
  temperature: { low: 30, high: 90, unit: '°C' },
  power: { low: 0, high: 700, unit: 'W' },
};

export function shareOf(readings: Readings, by: Exclude<ColorBy, 'project'>, row: number): number {
  switch (by) {
    case 'util':
      return readings.util[row]!;
    case 'memory':
      return readings.memory[row]!;
    case 'temperature':
      return (readings.temperature_c[row]! - 30) / 60;
    case 'power':
      return readings.power_w[row]! / 700;
  }
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

/** (count, 4) bytes: RGB and the pattern. */
export function paint(
  units: Units,
  readings: Readings,
  jobs: Jobs,
  colors: Palette,
  look: Look,
): Uint8Array {
  const out = new Uint8Array(units.count * 4);
  const projects = units.jobs.map((id) => jobs.get(id)?.project ?? '');
  const categories = categoriesOf(projects, colors.categories.length);
  for (let row = 0; row < units.count; row++) {
    const state = stateAt(units, row);
    let rgb = colors.states[state];
    if (state === 'running') {
      if (look.color === 'project') {
        const at = categories.get(projects[units.job[row]!] ?? '');
        if (at !== undefined) rgb = colors.categories[at]!;
      } else {
        const share = shareOf(readings, look.color, row);
        if (!Number.isNaN(share)) {
          rgb = colors.ramp[Math.round(Math.min(1, Math.max(0, share)) * RAMP_STEPS)]!;
        }
      }
    }
    out.set(rgb, row * 4);
    out[row * 4 + 3] = PATTERN[state] | (look.lit && !look.lit[row] ? DIM : 0);
  }
  return out;
}
