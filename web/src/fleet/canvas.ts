// The same squares on a plain canvas, for browsers without WebGL2. Each look is drawn once into a
// sprite; a frame is then one drawImage per square. Looks change at once instead of blending.

import { DIM } from './paint';
import type { Scene, Tones, UnitRenderer } from './renderer';

export class CanvasRenderer implements UnitRenderer {
  readonly kind = 'canvas2d';
  private readonly context: CanvasRenderingContext2D;
  private from: Scene = { unit: 1, x: new Float32Array(), y: new Float32Array() };
  private to = this.from;
  private look: Uint32Array = new Uint32Array();
  private tones: Tones = { background: [0, 0, 0], edge: [0, 0, 0] };
  private readonly sprites = new Map<number, HTMLCanvasElement>();
  private ratio = 1;

  constructor(private readonly canvas: HTMLCanvasElement) {
    const context = canvas.getContext('2d');
    if (!context) throw new Error('no 2D canvas');
    this.context = context;
  }

  resize(width: number, height: number, ratio: number): void {
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    this.ratio = ratio;
    this.sprites.clear();
  }

  place(from: Scene, to: Scene): void {
    if (to.unit !== this.to.unit) this.sprites.clear();
    this.from = from;
    this.to = to;
  }

  paint(look: Uint8Array, tones: Tones): void {
    this.look = new Uint32Array(look.slice().buffer);
    if (tones.background.join() !== this.tones.background.join()) this.sprites.clear();
    this.tones = tones;
  }

  draw(move: number): void {
    const { context, from, to, ratio } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const unit = from.unit + (to.unit - from.unit) * move;
    const count = Math.min(this.look.length, to.x.length);
    for (let row = 0; row < count; row++) {
      const x = from.x[row]! + (to.x[row]! - from.x[row]!) * move;
      if (Number.isNaN(x)) continue;
      const y = from.y[row]! + (to.y[row]! - from.y[row]!) * move;
      context.drawImage(this.sprite(this.look[row]!), x, y, unit, unit);
    }
  }

  destroy(): void {
    this.sprites.clear();
  }

  private sprite(look: number): HTMLCanvasElement {
    const known = this.sprites.get(look);
    if (known) return known;
    const size = this.to.unit;
    const made = document.createElement('canvas');
    made.width = made.height = Math.max(1, Math.round(size * this.ratio));
    const context = made.getContext('2d')!;
    context.scale(made.width / size, made.height / size);
    drawSquare(context, size, look, this.tones);
    this.sprites.set(look, made);
    return made;
  }
}

/** One square of a look (little-endian RGB and pattern) with its corner at the origin. */
export function drawSquare(
  c: CanvasRenderingContext2D,
  u: number,
  look: number,
  tones: Tones,
): void {
  const code = look >>> 24;
  const pattern = code & 15;
  const color = `rgb(${look & 255} ${(look >> 8) & 255} ${(look >> 16) & 255})`;
  const tiny = u < 5;
  const line = Math.min(2, Math.max(1, u * 0.09));
  c.globalAlpha = code & DIM ? 0.16 : 1;
  c.fillStyle = c.strokeStyle = color;
  c.lineWidth = pattern === 5 ? 2 * line : line;
  const square = new Path2D();
  square.roundRect(0, 0, u, u, Math.min(u * 0.2, 3));
  const outline = new Path2D();
  outline.roundRect(line / 2, line / 2, u - line, u - line, Math.min(u * 0.2, 3));
  if (pattern === 0 || pattern === 6 || tiny) {
    if (tiny && pattern === 2) c.globalAlpha *= 0.45;
    c.fill(square);
  } else if (pattern === 1 || pattern === 4) striped(c, u, square, pattern === 1);
  else c.stroke(outline);
  if (tiny) return;
  if (pattern === 0) edged(c, u, tones.edge);
  if (pattern === 3 || pattern === 5) {
    c.beginPath();
    c.arc(u / 2, u / 2, u * (pattern === 5 ? 0.2 : 0.17), 0, 7);
    c.fill();
  }
  if (pattern === 8) c.fillRect(u * 0.1, u * 0.5, u * 0.8, u * 0.4);
  if (pattern === 6 || pattern === 7) {
    const [low, high] = [u * 0.28, u * 0.72];
    if (pattern === 6) c.strokeStyle = `rgb(${tones.background.join(' ')})`;
    c.lineWidth = Math.max(1.2, u * 0.11);
    c.beginPath();
    c.moveTo(low, low);
    c.lineTo(high, high);
    c.moveTo(high, low);
    c.lineTo(low, high);
    c.stroke();
  }
}

/** A hairline that keeps the low end of the ramp visible. */
function edged(c: CanvasRenderingContext2D, u: number, edge: readonly number[]): void {
  const alpha = c.globalAlpha;
  c.globalAlpha = alpha * 0.4;
  c.strokeStyle = `rgb(${edge.join(' ')})`;
  c.lineWidth = 1;
  const inside = new Path2D();
  inside.roundRect(0.5, 0.5, u - 1, u - 1, Math.min(u * 0.2, 3));
  c.stroke(inside);
  c.globalAlpha = alpha;
}

function striped(c: CanvasRenderingContext2D, u: number, square: Path2D, diagonal: boolean): void {
  const alpha = c.globalAlpha;
  c.globalAlpha = alpha * (diagonal ? 0.3 : 0.18);
  c.fill(square);
  c.globalAlpha = alpha;
  c.save();
  c.clip(square);
  const period = Math.max(3, u * (diagonal ? 0.34 : 0.3));
  c.lineWidth = period * 0.5;
  c.beginPath();
  for (let at = -u; at < 2 * u; at += diagonal ? period * 1.2 : period) {
    c.moveTo(diagonal ? at : 0, diagonal ? 0 : at + period / 2);
    c.lineTo(diagonal ? at - u : u, diagonal ? u : at + period / 2);
  }
  c.stroke();
  c.restore();
}
