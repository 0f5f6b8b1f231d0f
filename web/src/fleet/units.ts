// The fleet as columns: one row per device, in the order in which the daemon lists nodes.
//
// Pure. A row's index is its identity while the list of nodes stays; `keys` tell rows of two lists
// apart when it does not. Readings are NaN where there is no sensor: missing is not zero.

import type { GpuView, JobView, NodeView, Top } from '../api/types';

export const STATES = [
  'running',
  'idle',
  'starting',
  'free',
  'draining',
  'faulty',
  'lost',
] as const;
export type State = (typeof STATES)[number];
const CODE = Object.fromEntries(STATES.map((state, code) => [state, code])) as Record<
  State,
  number
>;

export interface Units {
  count: number;
  /** `node/index` of each row. */
  keys: readonly string[];
  nodes: readonly NodeView[];
  /** Row of the device's node. */
  node: Int32Array;
  /** The device's place in its node's list. */
  slot: Int32Array;
  /** Code of the state, see STATES. */
  state: Uint8Array;
  /** Index into `jobs` of the job that holds most of it, or -1. */
  job: Int32Array;
  jobs: readonly string[];
  isSlots: boolean;
}

export interface Readings {
  /** 0..1 */
  util: Float32Array;
  memory: Float32Array;
  temperature_c: Float32Array;
  power_w: Float32Array;
}

export type Jobs = ReadonlyMap<string, JobView>;

export function stateOf(node: NodeView, gpu: GpuView, jobs: Jobs): State {
  if (node.state === 'lost') return 'lost';
  if (!gpu.healthy) return 'faulty';
  if (node.state === 'cordoned') return 'draining';
  if (!gpu.jobs.length) return 'free';
  const phases = gpu.jobs.map((held) => jobs.get(held.job)?.phase ?? 'running');
  if (phases.includes('running')) return 'running';
  return phases.includes('stopping') ? 'draining' : 'starting';
}

export function unitsOf(nodes: readonly NodeView[], jobs: Jobs): Units {
  const count = nodes.reduce((sum, node) => sum + node.gpus.length, 0);
  const units = {
    count,
    keys: new Array<string>(count),
    nodes,
    node: new Int32Array(count),
    slot: new Int32Array(count),
    state: new Uint8Array(count),
    job: new Int32Array(count).fill(-1),
    jobs: [] as string[],
    isSlots: count > 0 && nodes.every((node) => isCpu(node)),
  };
  const known = new Map<string, number>();
  let row = 0;
  nodes.forEach((node, at) => {
    node.gpus.forEach((gpu, slot) => {
      units.keys[row] = `${node.id}/${gpu.index}`;
      units.node[row] = at;
      units.slot[row] = slot;
      units.state[row] = CODE[stateOf(node, gpu, jobs)];
      const id = largest(gpu);
      if (id !== null) {
        let job = known.get(id);
        if (job === undefined) {
          job = units.jobs.push(id) - 1;
          known.set(id, job);
        }
        units.job[row] = job;
      }
      row++;
    });
  });
  return units;
}

/** CPU slots stand in as devices on a machine without GPUs. */
const isCpu = (node: NodeView): boolean => node.model === '' || /cpu/i.test(node.model);

function largest(gpu: GpuView): string | null {
  let best = gpu.jobs[0];
  for (const held of gpu.jobs) if (best && held.milli > best.milli) best = held;
  return best?.job ?? null;
}

export function readingsOf(units: Units, top: Top | null): Readings {
  const empty = (): Float32Array => new Float32Array(units.count).fill(NaN);
  const readings = { util: empty(), memory: empty(), temperature_c: empty(), power_w: empty() };
  if (!top) return readings;
  const byNode = new Map(top.nodes.map((node) => [node.id, node]));
  for (let row = 0; row < units.count; row++) {
    const node = units.nodes[units.node[row]!]!;
    const gpu = node.gpus[units.slot[row]!]!;
    const seen = byNode.get(node.id)?.gpus;
    const at = units.slot[row]!;
    const read =
      seen?.[at]?.index === gpu.index ? seen[at] : seen?.find((one) => one.index === gpu.index);
    if (!read) continue;
    if (read.util_percent !== null) readings.util[row] = read.util_percent / 100;
    if (read.memory_used_mib !== null && gpu.memory_mib > 0) {
      readings.memory[row] = read.memory_used_mib / gpu.memory_mib;
    }
    if (read.temperature_c !== null) readings.temperature_c[row] = read.temperature_c;
    if (read.power_w !== null) readings.power_w[row] = read.power_w;
  }
  return readings;
}

const IDLE_UTIL_MAX = 0.02;
export const IDLE_AFTER_MS = 60_000; // shorter pauses are checkpoints and data loading

/** Since when each running device does nothing (0: it works), from one poll to the next. */
export class IdleWatch {
  private since = new Map<string, number>();

  /** The rows that have been idle for long enough, with the time since when. */
  look(units: Units, readings: Readings, nowMs: number): Map<number, number> {
    const next = new Map<string, number>();
    const idle = new Map<number, number>();
    for (let row = 0; row < units.count; row++) {
      if (units.state[row] !== CODE.running || !(readings.util[row]! <= IDLE_UTIL_MAX)) continue;
      const key = `${units.keys[row]!} ${units.jobs[units.job[row]!] ?? ''}`;
      const sinceMs = this.since.get(key) ?? nowMs;
      next.set(key, sinceMs);
      if (nowMs - sinceMs >= IDLE_AFTER_MS) idle.set(row, sinceMs);
    }
    this.since = next;
    return idle;
  }
}

/** The units with the idle ones marked as such. */
export function withIdle(units: Units, idle: ReadonlyMap<number, number>): Units {
  if (!idle.size) return units;
  const state = units.state.slice();
  for (const row of idle.keys()) if (state[row] === CODE.running) state[row] = CODE.idle;
  return { ...units, state };
}

export function countStates(units: Units): Record<State, number> {
  const counts = new Array<number>(STATES.length).fill(0);
  for (const code of units.state) counts[code]!++;
  return Object.fromEntries(STATES.map((state, code) => [state, counts[code]!])) as Record<
    State,
    number
  >;
}

export const stateAt = (units: Units, row: number): State => STATES[units.state[row]!]!;
export const jobAt = (units: Units, row: number): string | null =>
  units.job[row]! < 0 ? null : units.jobs[units.job[row]!]!;
export const nodeAt = (units: Units, row: number): NodeView => units.nodes[units.node[row]!]!;
export const gpuAt = (units: Units, row: number): GpuView =>
  nodeAt(units, row).gpus[units.slot[row]!]!;

/** True iff both have the same devices in the same rows. */
export function sameRows(a: Units, b: Units): boolean {
  if (a.count !== b.count) return false;
  for (let row = 0; row < a.count; row++) if (a.keys[row] !== b.keys[row]) return false;
  return true;
}
