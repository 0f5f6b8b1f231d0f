// Where each square goes: a pure function from groups and a box to equal squares.
//
// Promises (tested with random groups): no two squares overlap, all are inside the width and the
// height it says, all have the same size, the same input gives the same layout, and a square's place
// depends only on the groups, never on states or readings. The size is the largest that fits.
//
// Letters: u unit size, p pitch (u + gap), W and H the box; all in CSS px, multiples of `grain`.

export interface Group {
  key: string;
  /** Each cell's units stay together (a node); a unit is a row of `Units`. */
  cells: readonly (readonly number[])[];
  /** Where the quota line stands, in units. */
  quota?: number;
}

export interface Box {
  width: number;
  height: number;
  /** The smallest step that stays sharp: 1 / device pixel ratio. */
  grain: number;
}

export interface Frame {
  group: number;
  x: number;
  /** Top of the label; the squares begin `LABEL` px below it. */
  y: number;
  width: number;
  height: number;
  labelled: boolean;
  /** x of the quota line, or NaN. */
  quota: number;
}

export interface Layout {
  unit: number;
  /** Top left corner of each unit; NaN for a unit of no group. */
  x: Float32Array;
  y: Float32Array;
  frames: readonly Frame[];
  /** Used height; more than the box's when even the smallest squares don't fit. */
  height: number;
  /** What it became: bars that don't fit are a shelf. */
  shape: Shape;
}

export type Shape = 'blocks' | 'cards' | 'shelf' | 'bars';

export const LABEL = 22;
export const BAR_LABEL = 148;
const UNIT_MIN = 3;
const UNIT_MAX: Record<Shape, number> = { blocks: 34, cards: 44, shelf: 30, bars: 28 };
const ROW_GAP = 14;
const COLUMNS_MAX = 32;
const FILL_GAIN_MIN = 1.05;
const CARD_WIDTH_MIN = 168; // a node's name and count fit above it
const SHELF_GAP = [5, 10] as const; // of the smallest squares, and of all from 7 px on
const BAR_GAP = 18;
const LABEL_WIDTH_MIN = 22; // a job's number fits

export function layout(groups: readonly Group[], shape: Shape, count: number, box: Box): Layout {
  const plan = {
    x: new Float32Array(count).fill(NaN),
    y: new Float32Array(count).fill(NaN),
    frames: [] as Frame[],
  };
  const full = groups.filter((group) => group.cells.some((cell) => cell.length > 0));
  if (!full.length) return { ...plan, unit: UNIT_MIN, height: 0, shape };
  const sizes = unitSizes(UNIT_MAX[shape], box.grain);
  const at = new Map(groups.map((group, index) => [group, index]));
  const draw = { groups: full, index: (group: Group) => at.get(group)!, box, ...plan };
  if (shape === 'bars') return bars(draw, sizes) ?? shelf(draw, sizes);
  return shape === 'shelf' ? shelf(draw, sizes) : blocks(draw, sizes, shape === 'cards');
}

interface Drawing {
  groups: readonly Group[];
  index: (group: Group) => number;
  box: Box;
  x: Float32Array;
  y: Float32Array;
  frames: Frame[];
}

function unitSizes(max: number, grain: number): number[] {
  const sizes = [];
  for (let u = max; u >= UNIT_MIN; u -= u > 12 ? Math.max(grain, 0.5) : grain) sizes.push(u);
  return sizes.map((u) => snap(u, grain));
}

const snap = (value: number, grain: number): number => Math.floor(value / grain + 1e-6) * grain;

interface Steps {
  u: number;
  p: number;
  nodeGap: number;
}

function steps(u: number, grain: number): Steps {
  const gap = Math.max(grain, Math.round((0.13 * u) / grain) * grain);
  const nodeGap = Math.max(gap + grain, Math.round((0.36 * u) / grain) * grain);
  return { u, p: u + gap, nodeGap };
}

const span = (units: number, { u, p }: Steps): number => (units ? (units - 1) * p + u : 0);

// -- blocks: groups in columns, cells in a grid inside each -----------------------------------------

interface CellShape {
  columns: number;
  rows: number;
  widthMin?: number;
}

/** 8 devices are 2 × 4 upright in a big fleet, and one row, as a machine's front, on a card. */
export function cellShape(units: number, lying: boolean): CellShape {
  if (lying) return { columns: Math.min(units, 8), rows: Math.ceil(units / 8) };
  let short = 1;
  while (short * 2 * short < units) short *= 2;
  const long = Math.ceil(units / short);
  return { columns: short, rows: long };
}

interface BlocksFit {
  steps: Steps;
  columns: number;
  perRow: number;
  cellWidth: number;
  cellHeight: number;
  gutter: number;
  height: number;
  used: number;
}

function blocks(draw: Drawing, sizes: readonly number[], lying: boolean): Layout {
  const { groups, box } = draw;
  let most = 0;
  for (const group of groups) for (const c of group.cells) most = Math.max(most, c.length);
  const cell = { ...cellShape(most, lying), widthMin: lying ? CARD_WIDTH_MIN : 0 };
  let fit: BlocksFit | null = null;
  const spaced = (u: number): Steps => {
    const s = steps(u, box.grain);
    return most > 1 ? s : { ...s, nodeGap: s.p - s.u }; // squares that are nodes need no second gap
  };
  for (const u of sizes) {
    fit = fitBlocks(groups, cell, spaced(u), box);
    if (fit) break;
  }
  fit ??= lowest(groups, cell, spaced(UNIT_MIN), box);
  return drawBlocks(draw, cell, spread(fit, groups, box));
}

/** Where nothing fits: as little to scroll through as can be. */
function lowest(groups: readonly Group[], cell: CellShape, s: Steps, box: Box): BlocksFit {
  let [low, high] = [box.height, 2 * box.height + 1000];
  const fitting = (height: number): BlocksFit | null =>
    fitBlocks(groups, cell, s, { ...box, height });
  while (!fitting(high)) high *= 2;
  while (high - low > 8) {
    const middle = (low + high) / 2;
    if (fitting(middle)) high = middle;
    else low = middle;
  }
  return fitting(high)!;
}

function fitBlocks(
  groups: readonly Group[],
  cell: CellShape,
  s: Steps,
  box: Box,
): BlocksFit | null {
  const cellWidth = Math.max(span(cell.columns, s), cell.widthMin ?? 0);
  const cellHeight = span(cell.rows, s);
  const gutter = snap(Math.min(28, Math.max(16, 1.5 * s.p)), box.grain);
  const cellsMax = Math.max(...groups.map((group) => group.cells.length));
  let best: BlocksFit | null = null;
  for (let columns = 1; columns <= Math.min(groups.length, COLUMNS_MAX); columns++) {
    const width = (box.width - (columns - 1) * gutter) / columns;
    const fitting = Math.floor((width + s.nodeGap) / (cellWidth + s.nodeGap));
    // A box narrower than one cell still gets one: the map then scrolls.
    if (fitting < 1 && columns > 1) break;
    const perRow = Math.max(1, Math.min(fitting, cellsMax));
    const height = blocksHeight(groups, columns, perRow, cellHeight, s.nodeGap);
    const used = columns * (perRow * (cellWidth + s.nodeGap) - s.nodeGap) + (columns - 1) * gutter;
    const fit = { steps: s, columns, perRow, cellWidth, cellHeight, gutter, height, used };
    // Fewer, wider blocks have room for their names: more columns must fill the width clearly better.
    if (height <= box.height && (!best || used > best.used * FILL_GAIN_MIN)) best = fit;
  }
  return best;
}

function blocksHeight(
  groups: readonly Group[],
  columns: number,
  perRow: number,
  cellHeight: number,
  nodeGap: number,
): number {
  let height = -ROW_GAP;
  for (let first = 0; first < groups.length; first += columns) {
    const rows = tallest(groups, first, columns, perRow);
    height += LABEL + rows * (cellHeight + nodeGap) - nodeGap + ROW_GAP;
  }
  return height;
}

function tallest(groups: readonly Group[], first: number, columns: number, perRow: number): number {
  let rows = 1;
  for (const group of groups.slice(first, first + columns)) {
    rows = Math.max(rows, Math.ceil(group.cells.length / perRow));
  }
  return rows;
}

/** Room that is left over goes between nodes, up to a unit, and then between blocks. */
function spread(
  fit: BlocksFit,
  groups: readonly Group[],
  box: Box,
): BlocksFit & { gapX: number; gapY: number } {
  const { steps: s, columns, perRow } = fit;
  const inner = columns * (perRow - 1);
  const leftX = Math.max(0, box.width - fit.used);
  const addX = inner ? snap(Math.min(leftX / inner, 0.5 * s.u), box.grain) : 0;
  const gutters = columns - 1;
  const leftG = leftX - addX * inner;
  const addG = gutters ? snap(Math.min(leftG / gutters, 32), box.grain) : 0;
  let innerRows = 0;
  for (let first = 0; first < groups.length; first += columns) {
    innerRows += tallest(groups, first, columns, perRow) - 1;
  }
  const leftY = Math.max(0, box.height - fit.height);
  const addY = innerRows ? snap(Math.min(leftY / innerRows, addX), box.grain) : 0;
  return {
    ...fit,
    gutter: fit.gutter + addG,
    height: fit.height + (Number.isFinite(addY) ? addY * innerRows : 0),
    gapX: s.nodeGap + addX,
    gapY: s.nodeGap + (Number.isFinite(addY) ? addY : 0),
  };
}

function drawBlocks(
  draw: Drawing,
  cell: CellShape,
  fit: BlocksFit & { gapX: number; gapY: number },
): Layout {
  const { groups, x, y, frames } = draw;
  const lying = cell.widthMin === CARD_WIDTH_MIN;
  const { steps: s, columns, perRow, cellWidth, cellHeight, gutter, gapX, gapY } = fit;
  const width = perRow * (cellWidth + gapX) - gapX;
  let top = 0;
  for (let first = 0; first < groups.length; first += columns) {
    const rows = tallest(groups, first, columns, perRow);
    const height = LABEL + rows * (cellHeight + gapY) - gapY;
    groups.slice(first, first + columns).forEach((group, column) => {
      const left = column * (width + gutter);
      const frame = { group: draw.index(group), x: left, y: top, width, height };
      frames.push({ ...frame, labelled: true, quota: NaN });
      group.cells.forEach((units, c) => {
        const cellX = left + (c % perRow) * (cellWidth + gapX);
        const cellY = top + LABEL + Math.floor(c / perRow) * (cellHeight + gapY);
        units.forEach((unit, i) => {
          x[unit] = cellX + (i % cell.columns) * s.p;
          y[unit] = cellY + Math.floor(i / cell.columns) * s.p;
        });
      });
    });
    top += height + ROW_GAP;
  }
  return { unit: s.u, x, y, frames, height: top - ROW_GAP, shape: lying ? 'cards' : 'blocks' };
}

// -- shelf: groups of any size side by side, in rows -------------------------------------------------

interface Piece {
  group: Group;
  rows: number;
  columns: number;
}

const sizeOf = (group: Group): number => {
  let size = 0;
  for (const cell of group.cells) size += cell.length;
  return size;
};

/** How many rows of squares a piece has: half as high as wide at most, 8 unless it is too wide. */
function rowsOf(size: number, s: Steps, width: number): number {
  const columnsMax = Math.max(1, Math.floor((width - s.u) / s.p) + 1);
  let rows = 1;
  while (rows < 8 && rows * rows * 2 < size) rows *= 2;
  return Math.max(rows, Math.ceil(size / columnsMax));
}

function shelf(draw: Drawing, sizes: readonly number[]): Layout {
  const { box } = draw;
  const counts = Int32Array.from(draw.groups, sizeOf);
  const u = sizes.find((size) => fitsShelf(counts, steps(size, box.grain), box));
  return shelve(draw, steps(u ?? UNIT_MIN, box.grain));
}

const shelfGap = (s: Steps, grain: number): number => {
  const [least, most] = SHELF_GAP;
  return snap(Math.max(least, Math.min(most, 1.5 * s.u), s.nodeGap), grain);
};

/** What `shelve` would need, without doing it: 10,000 jobs have 60 sizes to try. */
function fitsShelf(counts: Int32Array, s: Steps, box: Box): boolean {
  const gap = shelfGap(s, box.grain);
  let [left, top, tall, labelled] = [0, 0, 0, false];
  for (const count of counts) {
    const rows = rowsOf(count, s, box.width);
    const width = span(Math.ceil(count / rows), s);
    if (left > 0 && left + width > box.width) {
      top += (labelled ? LABEL : 0) + tall + gap;
      if (top > box.height) return false;
      [left, tall, labelled] = [0, 0, false];
    }
    left += width + gap;
    tall = Math.max(tall, span(rows, s));
    labelled ||= width >= LABEL_WIDTH_MIN;
  }
  return top + (labelled ? LABEL : 0) + tall <= box.height;
}

function shelve(draw: Drawing, s: Steps): Layout {
  const { box, x, y, frames } = draw;
  const gap = shelfGap(s, box.grain);
  let left = 0;
  let top = 0;
  let rowHeight = 0;
  let row: { piece: Piece; left: number }[] = [];
  const flush = (): void => {
    const labelled = row.some(({ piece: one }) => span(one.columns, s) >= LABEL_WIDTH_MIN);
    const label = labelled ? LABEL : 0;
    for (const one of row) place(one.piece, one.left, top + label, label);
    top += row.length ? label + rowHeight + gap : 0;
    row = [];
    left = 0;
    rowHeight = 0;
  };
  const place = (one: Piece, pieceLeft: number, squaresTop: number, label: number): void => {
    const width = span(one.columns, s);
    const labelled = label > 0 && width >= LABEL_WIDTH_MIN;
    const frame = { group: draw.index(one.group), x: pieceLeft, y: squaresTop - label, width };
    frames.push({ ...frame, height: label + span(one.rows, s), labelled, quota: NaN });
    // Down, then right: neighbours in a node stay neighbours here.
    one.group.cells.flat().forEach((unit, i) => {
      x[unit] = pieceLeft + Math.floor(i / one.rows) * s.p;
      y[unit] = squaresTop + (i % one.rows) * s.p;
    });
  };
  for (const group of draw.groups) {
    const size = sizeOf(group);
    const rows = rowsOf(size, s, box.width);
    const one = { group, rows, columns: Math.ceil(size / rows) };
    const width = span(one.columns, s);
    if (left > 0 && left + width > box.width) flush();
    row.push({ piece: one, left });
    left += width + gap;
    rowHeight = Math.max(rowHeight, span(one.rows, s));
  }
  flush();
  return { unit: s.u, x, y, frames, height: Math.max(0, top - gap), shape: 'shelf' };
}

// -- bars: one bar per group, all of the same thickness, with a line at the quota --------------------

/** Null when there are too many groups for bars. */
function bars(draw: Drawing, sizes: readonly number[]): Layout | null {
  const { groups, box } = draw;
  const width = box.width - BAR_LABEL;
  const longest = Math.max(...groups.map(sizeOf));
  for (const u of sizes) {
    const s = steps(u, box.grain);
    const thick = Math.min(
      Math.floor((box.height / groups.length - BAR_GAP + (s.p - s.u)) / s.p),
      Math.ceil(96 / s.p),
    );
    if (thick < 1 || span(Math.ceil(longest / thick), s) > width) continue;
    if (span(thick, s) < LABEL * 1.7 && groups.length * (LABEL * 1.7 + BAR_GAP) > box.height)
      continue;
    return drawBars(draw, s, thick, width);
  }
  return null;
}

function drawBars(draw: Drawing, s: Steps, rows: number, width: number): Layout {
  const { groups, x, y, frames } = draw;
  const height = Math.max(span(rows, s), snap(LABEL * 1.7, draw.box.grain));
  let top = 0;
  for (const group of groups) {
    const units = group.cells.flat();
    const quota = group.quota === undefined ? NaN : (group.quota / rows) * s.p;
    frames.push({
      group: draw.index(group),
      x: 0,
      y: top,
      width: BAR_LABEL + span(Math.ceil(units.length / rows), s),
      height,
      labelled: true,
      quota: quota <= width ? BAR_LABEL + quota : NaN,
    });
    units.forEach((unit, i) => {
      x[unit] = BAR_LABEL + Math.floor(i / rows) * s.p;
      y[unit] = top + (i % rows) * s.p;
    });
    top += height + BAR_GAP;
  }
  return { unit: s.u, x, y, frames, height: top - BAR_GAP, shape: 'bars' };
}
