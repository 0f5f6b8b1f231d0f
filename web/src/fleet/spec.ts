// What the fleet page shows, as the URL writes it: ?group=job&color=power&where=state:faulty&view=table

import type { Field as Reading, JobRow, NodeRow, Places } from '../api/liveMoment';
import { byName } from '../format';
import type { Group, Shape } from './layout';
import { MISSING, STATES, valueOf, type Bytes, type Units } from './units';

export const GROUPS = ['block', 'job', 'project', 'model', 'state'] as const;
export type GroupBy = (typeof GROUPS)[number];
/** What Shift and a digit choose; every other field of the schema is a choice, too. */
export const COLORS = ['util', 'memory', 'temperature', 'power', 'project'] as const;
/** Colours that stand for names and not for readings. */
export const KINDS = ['project', 'owner', 'job', 'state'] as const;
export type KindBy = (typeof KINDS)[number];
export type ColorBy = string;

export interface Spec {
  group: GroupBy;
  color: ColorBy;
  where: string;
  view: 'map' | 'table';
}

const oneOf = <T extends string>(value: string | null, allowed: readonly T[]): T =>
  allowed.find((word) => word === value) ?? allowed[0]!;

export function specOf(query: URLSearchParams): Spec {
  return {
    group: oneOf(query.get('group'), GROUPS),
    color: /^[a-z_]{1,40}$/.exec(query.get('color') ?? '')?.[0] ?? COLORS[0],
    where: query.get('where') ?? '',
    view: oneOf(query.get('view'), ['map', 'table'] as const),
  };
}

export const isKind = (color: ColorBy): color is KindBy =>
  (KINDS as readonly string[]).includes(color);

// -- where ------------------------------------------------------------------------------------------

const FIELDS = ['state', 'job', 'node', 'project', 'model', 'block', 'owner'] as const;
type Field = (typeof FIELDS)[number];

export interface Term {
  field: Field | null;
  text: string;
}

/** `power:20-80`: both ends are inside. */
export interface Range {
  name: string;
  low: number;
  high: number;
}

const RANGE = /^([a-z_]+):(-?\d+(?:\.\d+)?)-(-?\d+(?:\.\d+)?)$/;

export function rangesOf(where: string): Range[] {
  return where
    .split(/\s+/)
    .map((word) => RANGE.exec(word))
    .filter((found) => found !== null)
    .filter(([, name]) => !(FIELDS as readonly string[]).includes(name!))
    .map(([, name, low, high]) => ({ name: name!, low: Number(low), high: Number(high) }));
}

/** The where text with the range of one field set, or taken away. */
export function ranged(where: string, name: string, range: Range | null): string {
  const others = where.split(/\s+/).filter((word) => word && RANGE.exec(word)?.[1] !== name);
  const word = range && `${name}:${range.low}-${range.high}`;
  return [...others, ...(word ? [word] : [])].join(' ');
}

/** `state:faulty state:lost atlas`: terms of one field are alternatives, fields must all hold. */
export function terms(where: string): Term[] {
  return where
    .trim()
    .toLowerCase()
    .split(/\s+/)
    .filter(Boolean)
    .map((word) => {
      const at = word.indexOf(':');
      const field = FIELDS.find((name) => name === word.slice(0, at)) ?? null;
      return field ? { field, text: word.slice(at + 1) } : { field: null, text: word };
    });
}

/** What a term asks of a row: of its node, its job or its state, each answered once, not per row. */
interface Test {
  node: Uint8Array | null;
  job: Uint8Array | null;
  state: number;
}

const NEVER = -1;

export interface Readings {
  bytes: Bytes;
  fields: ReadonlyMap<string, Reading>;
}

/** One byte per row: 1 iff it matches; null when everything does. O(rows + nodes + jobs). */
export function matching(units: Units, where: string, readings?: Readings): Uint8Array | null {
  const ranges = rangesOf(where).filter((one) => readings?.fields.has(one.name));
  const named = new Set(ranges.map((one) => one.name));
  const wanted = terms(where).filter((one) => !named.has(RANGE.exec(one.text)?.[1] ?? ''));
  if (!wanted.length && !ranges.length) return null;
  const fields = new Map<Field, Test[]>();
  const plain: Test[] = [];
  for (const { field, text } of wanted) {
    const test = testOf(units, field, text);
    if (field === null) plain.push(test);
    else fields.set(field, [...(fields.get(field) ?? []), test]);
  }
  const all = [...plain.map((test) => [test]), ...fields.values()];
  const found = new Uint8Array(units.count);
  for (let row = 0; row < units.count; row++) {
    found[row] = all.every((tests) => tests.some((test) => holds(units, row, test))) ? 1 : 0;
  }
  for (const range of ranges) keepInside(found, range, readings!);
  return found;
}

function keepInside(found: Uint8Array, { name, low, high }: Range, readings: Readings): void {
  const field = readings.fields.get(name)!;
  const column = readings.bytes.get(name);
  const inside = Uint8Array.from({ length: 256 }, (_, byte) => {
    const value = valueOf(field, byte);
    return value >= low && value <= high ? 1 : 0;
  });
  for (let row = 0; row < found.length; row++) found[row]! &= inside[column?.[row] ?? MISSING]!;
}

function holds(units: Units, row: number, { node, job, state }: Test): boolean {
  if (state === units.state[row]!) return true;
  if (node?.[units.node[row]!]) return true;
  const at = units.job[row]!;
  return at >= 0 && job?.[at] === 1;
}

function testOf(units: Units, field: Field | null, text: string): Test {
  const nodes = (words: (node: NodeRow) => readonly string[]): Uint8Array =>
    Uint8Array.from(units.nodes, (node) =>
      words(node).some((word) => word.toLowerCase().includes(text)) ? 1 : 0,
    );
  const jobs = (test: (job: JobRow) => boolean): Uint8Array => {
    const out = new Uint8Array(units.jobs.length);
    units.jobs.forEach((job, at) => (out[at] = job && test(job) ? 1 : 0));
    return out;
  };
  const has = (word: string): boolean => word.toLowerCase().includes(text);
  const none: Test = { node: null, job: null, state: NEVER };
  switch (field) {
    case 'state': {
      const state = (STATES as readonly string[]).indexOf(text);
      return { ...none, state };
    }
    case 'job':
      return { ...none, job: jobs((job) => job.id.toLowerCase() === text) };
    case 'project':
      return { ...none, job: jobs((job) => has(job.project)) };
    case 'owner':
      return { ...none, job: jobs((job) => has(job.owner)) };
    case 'node':
      return { ...none, node: nodes((node) => [node.id]) };
    case 'model':
      return { ...none, node: nodes((node) => [node.model]) };
    case 'block':
      return { ...none, node: nodes((node) => [blockOf(node)]) };
    case null:
      return {
        state: NEVER,
        node: nodes((node) => [node.id, node.model]),
        job: jobs((job) => has(job.id) || has(job.project) || has(job.owner)),
      };
  }
}

/** The where text with one term switched on or off. */
export function toggled(where: string, term: string): string {
  const words = where.trim().split(/\s+/).filter(Boolean);
  return (words.includes(term) ? words.filter((word) => word !== term) : [...words, term]).join(
    ' ',
  );
}

// -- group ------------------------------------------------------------------------------------------

export interface Titled extends Group {
  title: string;
  /** Where a click on the title leads, if anywhere. */
  href?: string;
  job?: string;
  note: string;
  models: readonly string[];
}

export interface Grouping {
  shape: Shape;
  groups: readonly Titled[];
}

const CARDS_NODES_MAX = 24; // so few nodes get a name each

export const blockOf = (node: { domains: readonly string[]; group: string }): string =>
  node.domains[0] ?? node.group;

export interface Quotas {
  of: (project: string) => number | null;
}

/** Labels that are not names from the yard are keys of the catalogue, worded by the page. */
export const LOOSE = '\u0000';

/** The order of nodes by name, worked out once: sorting 10,000 names takes longer than all else. */
const ranks = new WeakMap<readonly NodeRow[], Int32Array>();

function rankOf(places: Places): Int32Array {
  const known = ranks.get(places.nodes);
  if (known) return known;
  const order = places.nodes.map((_, row) => row);
  order.sort((a, b) => byName(places.nodes[a]!.id, places.nodes[b]!.id));
  const rank = new Int32Array(order.length);
  order.forEach((row, at) => (rank[row] = at));
  ranks.set(places.nodes, rank);
  return rank;
}

interface Draft {
  key: string;
  /** Rows of one node each, in the order of rows. */
  cells: number[][];
  size: number;
  models: string[];
}

/** `codeOf` gives each row a small number; equal numbers are one group. */
function gather(
  units: Units,
  codeOf: (row: number) => number,
  keyOf: (code: number) => string,
): Draft[] {
  const drafts: (Draft | undefined)[] = [];
  const open: number[] = []; // the node whose cell is being filled, by code
  for (let row = 0; row < units.count; row++) {
    const code = codeOf(row);
    const node = units.node[row]!;
    let draft = drafts[code];
    if (!draft) draft = drafts[code] = { key: keyOf(code), cells: [], size: 0, models: [] };
    if (open[code] !== node || !draft.cells.length) {
      draft.cells.push([]);
      open[code] = node;
      const { model } = units.nodes[node]!;
      if (!draft.models.includes(model)) draft.models.push(model);
    }
    draft.cells.at(-1)!.push(row);
    draft.size++;
  }
  return drafts.filter((draft) => draft !== undefined);
}

/** A code for each different name, and the names. */
function coded<T>(values: readonly T[], nameOf: (value: T) => string): [Int32Array, string[]] {
  const known = new Map<string, number>();
  const names: string[] = [];
  const codes = Int32Array.from(values, (value) => {
    const name = nameOf(value);
    let code = known.get(name);
    if (code === undefined) {
      code = names.push(name) - 1;
      known.set(name, code);
    }
    return code;
  });
  return [codes, names];
}

function titled(draft: Draft, units: Units, more: Partial<Titled> = {}): Titled {
  const rank = rankOf(units.places);
  const at = (cell: readonly number[]): number => rank[units.node[cell[0]!]!]!;
  const { cells } = draft;
  if (cells.some((cell, i) => i > 0 && at(cell) < at(cells[i - 1]!))) {
    cells.sort((a, b) => at(a) - at(b));
  }
  return {
    key: draft.key,
    title: draft.key,
    note: '',
    models: draft.models.filter(Boolean).sort(byName),
    cells,
    ...more,
  };
}

/** True iff the groups depend on which nodes there are, and on nothing that moves. */
export const isStill = (by: GroupBy): boolean => by === 'block' || by === 'model';

export function groupUnits(units: Units, by: GroupBy, quotas: Quotas): Grouping {
  switch (by) {
    case 'block':
      if (units.nodes.length <= CARDS_NODES_MAX) return cards(units);
      return inBlocks(units, blockOf);
    case 'model':
      return inBlocks(units, (node) => node.model);
    case 'job':
      return byJob(units);
    case 'project':
      return byProject(units, quotas);
    case 'state': {
      const drafts = gather(
        units,
        (row) => units.state[row]!,
        (code) => LOOSE + (STATES[code] ?? ''),
      );
      drafts.sort((a, b) => rankOfState(a.key) - rankOfState(b.key));
      return { shape: 'bars', groups: drafts.map((draft) => titled(draft, units)) };
    }
  }
}

const rankOfState = (key: string): number => STATES.findIndex((state) => LOOSE + state === key);

function inBlocks(units: Units, nameOf: (node: NodeRow) => string): Grouping {
  const [codes, names] = coded(units.nodes, nameOf);
  const drafts = gather(
    units,
    (row) => codes[units.node[row]!]!,
    (code) => names[code]!,
  );
  drafts.sort((a, b) => byName(a.key, b.key));
  return { shape: 'blocks', groups: drafts.map((draft) => titled(draft, units)) };
}

function cards(units: Units): Grouping {
  return { ...inBlocks(units, (node) => node.id), shape: 'cards' };
}

/** Largest first; of equal size the oldest first, so that a new job never moves an old one of its size. */
function byJob(units: Units): Grouping {
  const { jobs } = units;
  const loose = jobs.length + 1; // beyond every slot: what nobody holds, by its state
  const drafts = gather(
    units,
    (row) => (units.job[row]! >= 0 ? units.job[row]! : loose + units.state[row]!),
    (code) => (code >= loose ? LOOSE + (STATES[code - loose] ?? '') : jobs[code]!.id),
  );
  const byId = new Map<string, JobRow>();
  for (const job of jobs) if (job) byId.set(job.id, job);
  const rank = (draft: Draft): number =>
    draft.key.startsWith(LOOSE) ? -1 - rankOfState(draft.key) : 1;
  const age = (draft: Draft): number => byId.get(draft.key)?.n ?? 0;
  drafts.sort(
    (a, b) => rank(b) - rank(a) || b.size - a.size || age(a) - age(b) || (a.key < b.key ? -1 : 1),
  );
  const groups = drafts.map((draft) => {
    const link = draft.key.startsWith(LOOSE)
      ? {}
      : { href: `/jobs/${encodeURIComponent(draft.key)}`, job: draft.key };
    return titled(draft, units, { note: byId.get(draft.key)?.project ?? '', ...link });
  });
  return { shape: 'shelf', groups };
}

function byProject(units: Units, quotas: Quotas): Grouping {
  const [codes, names] = coded(units.jobs, (job) => job?.project ?? LOOSE);
  const drafts = gather(
    units,
    (row) => (units.job[row]! >= 0 ? codes[units.job[row]!]! : names.length),
    (code) => names[code] ?? LOOSE,
  );
  const loose = (draft: Draft): number => (draft.key === LOOSE ? 1 : 0);
  drafts.sort((a, b) => loose(a) - loose(b) || b.size - a.size || byName(a.key, b.key));
  const groups = drafts.map((draft) => {
    const group = titled(draft, units);
    const rows = sideBySide(units, group.cells.flat());
    const quota = quotas.of(draft.key);
    return { ...group, cells: [rows], ...(quota === null ? {} : { quota }) };
  });
  return { shape: 'bars', groups };
}

const ROWS_MAX = 2 ** 20;

/** Jobs side by side, so that each stays one patch of colour; then states, then rows. */
function sideBySide(units: Units, rows: readonly number[]): number[] {
  const keys = Float64Array.from(
    rows,
    (row) => ((units.job[row]! + 1) * 16 + units.state[row]!) * ROWS_MAX + row,
  );
  return Array.from(keys.sort(), (key) => key % ROWS_MAX);
}

// -- many: below 3 px a square becomes its node -----------------------------------------------------

const WORST = [
  'lost',
  'faulty',
  'repairing',
  'draining',
  'idle',
  'starting',
  'running',
  'reserved',
  'free',
] as const;
const WORSE = STATES.map((state) => WORST.indexOf(state));
const NODE_DEVICES_MAX = 8; // a job's or project's devices on one node are one square, up to so many

export type Behind = readonly (readonly number[])[];

/** The same groups with one row for each node's share of a group; `rows` are the devices behind. */
export function coarse(units: Units, grouping: Grouping): { grouping: Grouping; rows: Behind } {
  const rows: number[][] = [];
  const groups = grouping.groups.map((group) => {
    const cells: number[][] = [];
    for (const cell of group.cells) {
      for (const part of parts(units, cell)) cells.push([rows.push(part) - 1]);
    }
    // Bars have one long cell a group: their squares stay side by side.
    return { ...group, cells: grouping.shape === 'bars' ? [cells.flat()] : cells };
  });
  return { grouping: { ...grouping, groups }, rows };
}

interface Still extends Pick<Units, 'node' | 'slot' | 'weight'> {
  /** The devices behind square i are flat[start[i]] to flat[start[i + 1] - 1]. */
  flat: Int32Array;
  start: Int32Array;
}

const stills = new WeakMap<Behind, Still>();

function stillOf(units: Units, rows: Behind): Still {
  const known = stills.get(rows);
  if (known) return known;
  const start = new Int32Array(rows.length + 1);
  rows.forEach((part, at) => (start[at + 1] = start[at]! + part.length));
  const flat = new Int32Array(start.at(-1) ?? 0);
  rows.forEach((part, at) => flat.set(part, start[at]));
  const first = (of: Int32Array): Int32Array => Int32Array.from(rows, (part) => of[part[0]!]!);
  const weight = Int32Array.from(rows, (part) => part.length);
  const still = { node: first(units.node), slot: first(units.slot), weight, flat, start };
  stills.set(rows, still);
  return still;
}

/** One row for the devices behind it: their worst state, the first one's job. */
export function coarseUnits(units: Units, rows: Behind): Units {
  const { node, slot, weight, flat, start } = stillOf(units, rows);
  const state = new Uint8Array(rows.length);
  const job = new Int32Array(rows.length).fill(-1);
  for (let at = 0; at < rows.length; at++) {
    let worst = units.state[flat[start[at]!]!]!;
    for (let i = start[at]!; i < start[at + 1]!; i++) {
      const code = units.state[flat[i]!]!;
      if (WORSE[code]! < WORSE[worst]!) worst = code;
      if (job[at]! < 0) job[at] = units.job[flat[i]!]!;
    }
    state[at] = worst;
  }
  return { ...units, node, slot, weight, count: rows.length, state, job };
}

/** Runs of devices of one node and one job, for a cell that may span many nodes. */
function parts(units: Units, cell: readonly number[]): number[][] {
  const found: number[][] = [];
  let node = -1;
  for (const row of cell) {
    const open = found.at(-1);
    if (open && units.node[row] === node && open.length < NODE_DEVICES_MAX) open.push(row);
    else found.push([row]);
    node = units.node[row]!;
  }
  return found;
}

/** Means of what the devices behind each square report; each column worked out when it is needed. */
export function coarseBytes(units: Units, bytes: Bytes, rows: Behind): Bytes {
  const { flat, start } = stillOf(units, rows);
  const made = new Map<string, Uint8Array | undefined>();
  return {
    get: (name) => {
      const column = bytes.get(name);
      if (column && !made.has(name)) made.set(name, meansOf(column, flat, start));
      return made.get(name);
    },
  };
}

function meansOf(column: Uint8Array, flat: Int32Array, start: Int32Array): Uint8Array {
  const means = new Uint8Array(start.length - 1);
  for (let at = 0; at < means.length; at++) {
    let sum = 0;
    let seen = 0;
    for (let i = start[at]!; i < start[at + 1]!; i++) {
      const byte = column[flat[i]!]!;
      if (byte === MISSING) continue;
      sum += byte;
      seen++;
    }
    means[at] = seen ? Math.round(sum / seen) : MISSING;
  }
  return means;
}
