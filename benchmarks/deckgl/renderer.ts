// The map drawn by deck.gl: one instanced icon per device, with the patterns of our own canvas.
//
// As one would build it with deck.gl: an IconLayer with binary attributes, colours and icons as
// attributes, and the library's own attribute transition (600 ms, cubic) for the flight.

import { Deck, OrthographicView } from "@deck.gl/core";
import { IconLayer } from "@deck.gl/layers";

import { drawSquare } from "../../web/src/fleet/canvas";
import type { Scene, UnitRenderer } from "../../web/src/fleet/renderer";

const MOVE_MS = 600;
const CELL = 64;
const PATTERNS = 16;
const cubic = (t: number): number =>
  t < 0.5 ? 4 * t * t * t : 1 - (-2 * t + 2) ** 3 / 2;

type Tones = Parameters<UnitRenderer["paint"]>[1];

export class WebGlRenderer implements UnitRenderer {
  readonly kind = "webgl2";
  private readonly deck: Deck<OrthographicView>;
  private size: [number, number] = [1, 1];
  private positions = new Float32Array();
  private unit = 1;
  private moves = false;
  private look: Uint8Array = new Uint8Array();
  private atlas: HTMLCanvasElement | null = null;
  private painted = 0;

  constructor(private readonly canvas: HTMLCanvasElement) {
    this.canvas.dataset["drawnBy"] = "deck.gl";
    this.deck = new Deck({
      canvas,
      width: "100%",
      height: "100%",
      views: new OrthographicView({ flipY: true }),
      controller: false,
      layers: [],
      useDevicePixels: true,
    });
  }

  resize(width: number, height: number): void {
    this.size = [width, height];
    this.deck.setProps({
      viewState: { target: [width / 2, height / 2, 0], zoom: 0 },
    } as never);
    this.update();
  }

  place(from: Scene, to: Scene): void {
    this.moves = from !== to;
    this.unit = to.unit;
    const next = new Float32Array(to.x.length * 3);
    to.x.forEach((x, row) => {
      next[row * 3] = Number.isNaN(x) ? -1e4 : x + to.unit / 2;
      next[row * 3 + 1] = Number.isNaN(x) ? -1e4 : to.y[row]! + to.unit / 2;
    });
    this.positions = next;
    this.update();
  }

  paint(look: Uint8Array, tones: Tones): void {
    this.look = look;
    this.painted++;
    this.atlas ??= atlasOf(tones);
    this.update();
  }

  /** deck.gl has a loop of its own. */
  draw(): void {
    this.deck.redraw();
  }

  destroy(): void {
    this.deck.finalize();
  }

  private update(): void {
    const count = this.positions.length / 3;
    if (!this.atlas || !count || this.look.length !== count * 4) return;
    const rows = Array.from({ length: count }, (_, row) => row);
    const { look, positions, moves, painted } = this;
    const transition = { duration: MOVE_MS, easing: cubic };
    const layer = new IconLayer<number>({
      id: "units",
      data: this.rows(count, rows),
      iconAtlas: this.atlas as never,
      iconMapping: MAPPING,
      getIcon: (row) => String(look[row * 4 + 3]! & (PATTERNS - 1)),
      getColor: (row) => [
        look[row * 4]!,
        look[row * 4 + 1]!,
        look[row * 4 + 2]!,
        look[row * 4 + 3]! & PATTERNS ? 41 : 255,
      ],
      getPosition: (row) => [positions[row * 3]!, positions[row * 3 + 1]!, 0],
      getSize: this.unit,
      sizeUnits: "pixels",
      updateTriggers: {
        getPosition: positions,
        getColor: painted,
        getIcon: painted,
      },
      transitions: {
        ...(moves ? { getPosition: transition } : {}),
        getColor: 200,
      },
    });
    this.deck.setProps({
      layers: [layer],
      width: this.size[0],
      height: this.size[1],
    });
  }

  private known: number[] = [];
  /** The same array while the rows are the same: deck.gl compares by identity. */
  private rows(count: number, rows: number[]): number[] {
    if (this.known.length !== count) this.known = rows;
    return this.known;
  }
}

const MAPPING = Object.fromEntries(
  Array.from({ length: PATTERNS }, (_, at) => [
    String(at),
    { x: at * CELL, y: 0, width: CELL, height: CELL, mask: true },
  ]),
);

/** White squares in every pattern; the layer gives them their colour. */
function atlasOf(tones: Tones): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = CELL * PATTERNS;
  canvas.height = CELL;
  const context = canvas.getContext("2d")!;
  for (let at = 0; at < PATTERNS; at++) {
    context.save();
    context.translate(at * CELL, 0);
    drawSquare(context, CELL, (0xffffff | (at << 24)) >>> 0, tones as never);
    context.restore();
  }
  return canvas;
}
