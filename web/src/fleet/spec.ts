// What the fleet page shows, as the URL writes it: ?group=job&color=power&where=state:faulty&view=table

import { byName } from '../format';
import type { Group, Shape } from './layout';
import type { Jobs, Readings, Units } from './units';
import { gpuAt, jobAt, nodeAt, stateAt, STATES } from './units';

export const GROUPS = ['block', 'job', 'project', 'model', 'state'] as const;
export type GroupBy = (typeof GROUPS)[number];
export const COLORS = ['util', 'memory', 'temperature', 'power', 'project'] as const;
export type ColorBy = (typeof COLORS)[number];

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
    color: oneOf(query.get('color'), COLORS),
    where: query.get('where') ?? '',
    view: oneOf(query.get('view'), ['map', 'table'] as const),
  };
}

// -- where ------------------------------------------------------------------------------------------

const FIELDS = ['state', 'job', 'node', 'project', 'model', 'block', 'owner'] as const;
type Field = (typeof FIELDS)[number];

export interface Term {
  field: Field | null;
  text: string;
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

/** One byte per row: 1 iff it matches; null when everything does. */
export function matching(units: Units, jobs: Jobs, where: string): Uint8Array | null {
  const wanted = terms(where);
  if (!wanted.length) return null;
  const fields = new Map<Field | null, string[]>();
  for (const { field, text } of wanted) fields.set(field, [...(fields.get(field) ?? []), text]);
  const plain = fields.get(null) ?? [];
  fields.delete(null);
  const found = new Uint8Array(units.count);
  for (let row = 0; row < units.count; row++) {
    const words = wordsOf(units, jobs, row);
    const anywhere = [words.job, words.node, words.project, words.owner, words.model].join(' ');
    let ok = plain.every((text) => anywhere.includes(text));
    for (const [field, texts] of fields) {
      if (!ok || !field) break;
      const exact = field === 'state' || field === 'job';
      ok = texts.some((text) => (exact ? words[field] === text : words[field].includes(text)));
    }
    found[row] = ok ? 1 : 0;
  }
  return found;
}

function wordsOf(units: Units, jobs: Jobs, row: number): Record<Field, string> {
  const node = nodeAt(units, row);
  const id = jobAt(units, row);
  const job = id === null ? undefined : jobs.get(id);
  return {
    state: stateAt(units, row),
    job: id ?? '',
    node: node.id.toLowerCase(),
    project: job?.project.toLowerCase() ?? '',
    owner: job?.owner.toLowerCase() ?? '',
    model: gpuAt(units, row).model.toLowerCase(),
    block: blockOf(node).toLowerCase(),
  };
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

interface Draft {
  key: string;
  title: string;
  cells: Map<number, number[]>;
  models: Set<string>;
}

type KeyOf = (row: number) => string;

function gather(units: Units, keyOf: KeyOf): Draft[] {
  const drafts = new Map<string, Draft>();
  for (let row = 0; row < units.count; row++) {
    const key = keyOf(row);
    let draft = drafts.get(key);
    if (!draft) {
      draft = { key, title: key, cells: new Map(), models: new Set() };
      drafts.set(key, draft);
    }
    const node = units.node[row]!;
    const cell = draft.cells.get(node);
    if (cell) cell.push(row);
    else draft.cells.set(node, [row]);
    draft.models.add(gpuAt(units, row).model);
  }
  return [...drafts.values()];
}

const sizeOf = (draft: Draft): number => {
  let size = 0;
  for (const cell of draft.cells.values()) size += cell.length;
  return size;
};

function titled(draft: Draft, units: Units, more: Partial<Titled> = {}): Titled {
  const byNode = [...draft.cells.entries()].sort(([a], [b]) =>
    byName(units.nodes[a]!.id, units.nodes[b]!.id),
  );
  return {
    key: draft.key,
    title: draft.title,
    note: '',
    models: [...draft.models].filter(Boolean).sort(byName),
    cells: byNode.map(([, cell]) => cell),
    ...more,
  };
}

export interface Quotas {
  of: (project: string) => number | null;
}

/** Labels that are not names from the yard are keys of the catalogue, worded by the page. */
export const LOOSE = '\u0000';

export function groupUnits(units: Units, jobs: Jobs, by: GroupBy, quotas: Quotas): Grouping {
  switch (by) {
    case 'block':
      if (units.nodes.length <= CARDS_NODES_MAX) return cards(units);
      return inBlocks(units, (row) => blockOf(nodeAt(units, row)));
    case 'model':
      return inBlocks(units, (row) => gpuAt(units, row).model || nodeAt(units, row).model);
    case 'job':
      return byJob(units, jobs);
    case 'project':
      return byProject(units, jobs, quotas);
    case 'state': {
      const drafts = gather(units, (row) => stateAt(units, row));
      const rank = new Map<string, number>(STATES.map((state, i) => [state, i]));
      drafts.sort((a, b) => rank.get(a.key)! - rank.get(b.key)!);
      const groups = drafts.map((draft) => titled(draft, units, { title: LOOSE + draft.key }));
      return { shape: 'bars', groups };
    }
  }
}

function inBlocks(units: Units, keyOf: KeyOf): Grouping {
  const drafts = gather(units, keyOf).sort((a, b) => byName(a.key, b.key));
  return { shape: 'blocks', groups: drafts.map((draft) => titled(draft, units)) };
}

function cards(units: Units): Grouping {
  const drafts = gather(units, (row) => nodeAt(units, row).id);
  drafts.sort((a, b) => byName(a.key, b.key));
  return { shape: 'cards', groups: drafts.map((draft) => titled(draft, units)) };
}

/** Largest first; of equal size the oldest first, so that a new job never moves an old one of its size. */
function byJob(units: Units, jobs: Jobs): Grouping {
  const drafts = gather(units, (row) => jobAt(units, row) ?? LOOSE + stateAt(units, row));
  const rank = (draft: Draft): number =>
    draft.key.startsWith(LOOSE) ? -STATES.findIndex((s) => LOOSE + s === draft.key) : 1;
  const ages = new Map(drafts.map((draft) => [draft, jobs.get(draft.key)?.n ?? 0]));
  const sizes = new Map(drafts.map((draft) => [draft, sizeOf(draft)]));
  drafts.sort(
    (a, b) =>
      rank(b) - rank(a) ||
      sizes.get(b)! - sizes.get(a)! ||
      ages.get(a)! - ages.get(b)! ||
      byName(a.key, b.key),
  );
  const groups = drafts.map((draft) => {
    const job = jobs.get(draft.key);
    const loose = draft.key.startsWith(LOOSE);
    const link = loose ? {} : { href: `/jobs/${encodeURIComponent(draft.key)}`, job: draft.key };
    return titled(draft, units, { note: job?.project ?? '', ...link });
  });
  return { shape: 'shelf', groups };
}

function byProject(units: Units, jobs: Jobs, quotas: Quotas): Grouping {
  const drafts = gather(units, (row) => jobs.get(jobAt(units, row) ?? '')?.project ?? LOOSE);
  const sizes = new Map(drafts.map((draft) => [draft, sizeOf(draft)]));
  const loose = (draft: Draft): number => (draft.key === LOOSE ? 1 : 0);
  drafts.sort(
    (a, b) => loose(a) - loose(b) || sizes.get(b)! - sizes.get(a)! || byName(a.key, b.key),
  );
  const groups = drafts.map((draft) => {
    const group = titled(draft, units);
    const rows = group.cells.flat();
    // Jobs side by side, so that each stays one patch of colour.
    rows.sort(
      (a, b) => units.job[a]! - units.job[b]! || units.state[a]! - units.state[b]! || a - b,
    );
    const quota = quotas.of(draft.key);
    return { ...group, cells: [rows], ...(quota === null ? {} : { quota }) };
  });
  return { shape: 'bars', groups };
}

// -- many: below 3 px a square becomes its node -------------------------------------------------------

const WORST = ['lost', 'faulty', 'draining', 'idle', 'starting', 'running', 'free'] as const;

/** One row per node: its worst state, its largest job. */
export function nodesAsUnits(units: Units): Units {
  const rank = STATES.map((state) => WORST.indexOf(state));
  const n = units.nodes.length;
  const first = new Int32Array(n).fill(-1);
  const state = new Uint8Array(n);
  const job = new Int32Array(n).fill(-1);
  for (let row = 0; row < units.count; row++) {
    const node = units.node[row]!;
    if (first[node]! < 0) {
      first[node] = row;
      state[node] = units.state[row]!;
    } else if (rank[units.state[row]!]! < rank[state[node]!]!) state[node] = units.state[row]!;
    if (job[node]! < 0) job[node] = units.job[row]!;
  }
  const rows = [...first.keys()].filter((node) => first[node]! >= 0);
  return {
    ...units,
    count: rows.length,
    keys: rows.map((node) => units.nodes[node]!.id),
    node: Int32Array.from(rows),
    slot: Int32Array.from(rows, (node) => units.slot[first[node]!]!),
    state: Uint8Array.from(rows, (node) => state[node]!),
    job: Int32Array.from(rows, (node) => job[node]!),
  };
}

/** Each node's mean of what its devices report. */
export function nodeReadings(units: Units, readings: Readings, many: Units): Readings {
  const mean = (values: Float32Array): Float32Array => {
    const sum = new Float64Array(units.nodes.length);
    const seen = new Int32Array(units.nodes.length);
    for (let row = 0; row < units.count; row++) {
      if (Number.isNaN(values[row]!)) continue;
      sum[units.node[row]!]! += values[row]!;
      seen[units.node[row]!]!++;
    }
    return Float32Array.from(many.node, (node) => (seen[node] ? sum[node]! / seen[node] : NaN));
  };
  return {
    util: mean(readings.util),
    memory: mean(readings.memory),
    temperature_c: mean(readings.temperature_c),
    power_w: mean(readings.power_w),
  };
}
