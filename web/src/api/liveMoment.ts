// The fleet at one moment as columns of bytes, and how messages change it.
//
// Promises: a moment and its arrays never change once made, so that whoever holds one (a pause, a
// replay, a history) holds the truth of then; what did not change is the same array as before.

import {
  DELTA,
  framesIn,
  inflated,
  JOBS_TABLE,
  momentOf,
  NEWS_TABLE,
  NODES_TABLE,
  PATCH,
  TABLE,
  TICK,
  WHOLE,
  type Frame,
} from './liveFrames';

export interface Field {
  id: number;
  name: string;
  text: string;
  unit: string;
  low: number;
  step: number;
  width: number;
  missing: number;
  shown: [number, number];
  words: string[];
}

export interface Hello {
  type: 'hello';
  epoch: string;
  tick: number;
  tick_ms: number;
  heartbeat_ms: number;
  now_ms: number;
  schema: Field[];
}

/** A node, without its devices: these are rows `first` to `first + gpus` of every column. */
export interface NodeRow {
  id: string;
  state: 'ready' | 'cordoned' | 'lost';
  model: string;
  group: string;
  domains: readonly string[];
  cpus: number;
  memory_mib: number;
  gpu_memory_mib: number;
  /** What a board may draw; 0 if unknown. */
  limit_w: number;
  first: number;
  gpus: number;
}

/** Which device is where. `version` stays while the rows mean the same devices. */
export interface Places {
  version: number;
  count: number;
  nodes: readonly NodeRow[];
  /** Row of the device's node, and its index there. */
  node: Int32Array;
  slot: Int32Array;
  isSlots: boolean;
}

/** What a page knows of a job that holds devices; JobView has all of it and more. */
export interface JobRow {
  id: string;
  project: string;
  owner: string;
  n: number;
  members: number;
  category: string;
}

export interface Moment {
  tick: number;
  atMs: number;
  seq: number;
  places: Places;
  columns: ReadonlyMap<string, Uint8Array>;
  /** By slot; column `job` counts them from 1, hence a hole at 0. */
  jobs: readonly (JobRow | undefined)[];
}

interface NodesTable {
  version: number;
  states: NodeRow['state'][];
  id: string[];
  gpus: number[];
  state: number[];
  models: string[];
  model: number[];
  groups: string[];
  group: number[];
  paths: string[][];
  path: number[];
  cpus: number[];
  memory_mib: number[];
  gpu_memory_mib: number[];
  limit_w: number[];
}

type JobEntry = [number, string, string, string, number, number, string];

/** What the journal told between two ticks; `all` after a snapshot: anything may have changed. */
export interface News {
  all: boolean;
  jobs: Set<string>;
  others: boolean;
}

export function placesOf(table: NodesTable): Places {
  const nodes: NodeRow[] = [];
  let count = 0;
  for (let row = 0; row < table.id.length; row++) {
    nodes.push({
      id: table.id[row]!,
      state: table.states[table.state[row]!]!,
      model: table.models[table.model[row]!]!,
      group: table.groups[table.group[row]!]!,
      domains: table.paths[table.path[row]!]!,
      cpus: table.cpus[row]!,
      memory_mib: table.memory_mib[row]!,
      gpu_memory_mib: table.gpu_memory_mib[row]!,
      limit_w: table.limit_w[row]!,
      first: count,
      gpus: table.gpus[row]!,
    });
    count += table.gpus[row]!;
  }
  const node = new Int32Array(count);
  const slot = new Int32Array(count);
  nodes.forEach((one, row) => {
    node.fill(row, one.first, one.first + one.gpus);
    for (let i = 0; i < one.gpus; i++) slot[one.first + i] = i;
  });
  const isSlots = count > 0 && nodes.every((one) => one.model === '' || /cpu/i.test(one.model));
  return { version: table.version, count, nodes, node, slot, isSlots };
}

/** CPU slots stand in as devices on a machine without GPUs. */
function withStates(places: Places, changes: readonly [number, number][]): Places {
  const states = ['ready', 'cordoned', 'lost'] as const;
  const nodes = places.nodes.slice();
  for (const [row, state] of changes) nodes[row] = { ...nodes[row]!, state: states[state]! };
  return { ...places, nodes };
}

export class Columns {
  private readonly fields = new Map<number, Field>();
  private columns = new Map<string, Uint8Array>();
  private places: Places | null = null;
  private jobs: (JobRow | undefined)[] = [];
  tick = -1;
  /** Ticks that were passed over because a snapshot came instead. */
  skipped = 0;

  constructor(readonly schema: readonly Field[]) {
    for (const field of schema) this.fields.set(field.id, field);
  }

  /**
   * The moment after a message. Messages must be given one after the other.
   *
   * Throws when one does not fit what is known: the caller then asks for a snapshot.
   */
  async take(message: ArrayBuffer): Promise<{ moment: Moment; news: News }> {
    const frames = framesIn(message);
    const bodies = await Promise.all(
      frames.map((one) => (one.kind === TICK ? Promise.resolve(one.body) : inflated(one.body))),
    );
    const news: News = { all: false, jobs: new Set(), others: false };
    let told = { atMs: 0, seq: 0 };
    const whole = frames.some((one) => one.kind === TABLE);
    if (whole) {
      this.columns = new Map();
      news.all = true;
    }
    frames.forEach((frame, i) => {
      const body = bodies[i]!;
      if (frame.kind === TICK) {
        if (this.tick >= 0 && whole) this.skipped += Math.max(0, frame.tick - this.tick - 1);
        else if (this.tick >= 0 && frame.tick !== this.tick + 1)
          throw new Error(`tick ${frame.tick} came after ${this.tick}`);
        this.tick = frame.tick;
        told = momentOf(body);
      } else if (frame.kind === TABLE || frame.kind === PATCH) this.table(frame, body, news);
      else this.column(frame, body);
    });
    if (!this.places || this.tick < 0) throw new Error('a live message without devices');
    const { tick, places } = this;
    const moment = { tick, ...told, places, columns: new Map(this.columns), jobs: this.jobs };
    return { moment, news };
  }

  private column(frame: Frame, body: Uint8Array): void {
    const field = this.fields.get(frame.field);
    if (!field) return; // a newer daemon's
    const count = (this.places?.count ?? -1) * field.width;
    if (body.length !== count)
      throw new Error(`${field.name} has ${body.length} of ${count} bytes`);
    if (frame.kind === WHOLE) {
      this.columns.set(field.name, body);
      return;
    }
    if (frame.kind !== DELTA) return;
    const before = this.columns.get(field.name);
    if (!before) throw new Error(`a change of ${field.name}, which is not known`);
    for (let i = 0; i < count; i++) body[i] = body[i]! + before[i]!; // modulo 256 by itself
    this.columns.set(field.name, body);
  }

  private table(frame: Frame, body: Uint8Array, news: News): void {
    const text = new TextDecoder().decode(body);
    if (frame.field === NODES_TABLE) {
      if (frame.kind === TABLE) this.places = placesOf(JSON.parse(text) as NodesTable);
      else if (this.places) {
        const patch = JSON.parse(text) as { state?: [number, number][] };
        this.places = withStates(this.places, patch.state ?? []);
      }
    } else if (frame.field === JOBS_TABLE) {
      const patch = JSON.parse(text) as { set: JobEntry[]; drop?: number[] };
      const jobs = frame.kind === TABLE ? [] : this.jobs.slice();
      for (const slot of patch.drop ?? []) jobs[slot] = undefined;
      for (const [slot, id, project, owner, n, members, category] of patch.set) {
        jobs[slot] = { id, project, owner, n, members, category };
      }
      this.jobs = jobs;
    } else if (frame.field === NEWS_TABLE && frame.kind === PATCH) {
      const told = JSON.parse(text) as { jobs: string[]; all?: boolean; others?: boolean };
      for (const id of told.jobs) news.jobs.add(id);
      news.all ||= told.all ?? false;
      news.others ||= told.others ?? false;
    }
  }
}

/** The numbers of a column of several planes: lowest bytes first. */
export function numbersOf(planes: Uint8Array, width: number): Int32Array {
  const count = planes.length / width;
  const out = new Int32Array(count);
  for (let plane = width - 1; plane >= 0; plane--) {
    const from = plane * count;
    for (let row = 0; row < count; row++) out[row] = (out[row]! << 8) | planes[from + row]!;
  }
  return out;
}
