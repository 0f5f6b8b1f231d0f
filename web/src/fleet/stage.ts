// Squares that move: owns the canvas, the flight of each square between two layouts, and the blend of
// its look. Draws only when something changes. Motion never blocks input: hits use the new layout.

import { CanvasRenderer } from './canvas';
import type { Scene, Tones, UnitRenderer } from './renderer';
import { WebGlRenderer } from './webgl';

const MOVE_MS = 600;
const BLEND_MS = 200;
const still = window.matchMedia('(prefers-reduced-motion: reduce)');

const cubic = (t: number): number => (t < 0.5 ? 4 * t * t * t : 1 - (-2 * t + 2) ** 3 / 2);

export class Stage {
  private canvas!: HTMLCanvasElement;
  private renderer!: UnitRenderer;
  private from: Scene | null = null;
  private to: Scene | null = null;
  private look: { bytes: Uint8Array; tones: Tones } | null = null;
  private size = { width: 1, height: 1, ratio: 1 };
  private moveFromMs = -Infinity;
  private blendFromMs = -Infinity;
  private frame = 0;
  /** Median and such are measured from outside: one number per drawn frame. */
  onFrame: ((ms: number) => void) | null = null;

  /** `moving` is told when a flight begins and ends, so that labels can stay away meanwhile. */
  constructor(
    private readonly host: HTMLElement,
    private readonly moving: (is: boolean) => void,
  ) {
    this.start(false);
  }

  get kind(): UnitRenderer['kind'] {
    return this.renderer.kind;
  }

  private start(plain: boolean): void {
    this.canvas = document.createElement('canvas');
    this.host.append(this.canvas);
    this.renderer = plain ? new CanvasRenderer(this.canvas) : bestRenderer(this.canvas);
    if (this.renderer.kind === 'canvas2d' && !plain) {
      // A canvas that was asked for WebGL once may give nothing else.
      this.canvas.replaceWith((this.canvas = document.createElement('canvas')));
      this.renderer = new CanvasRenderer(this.canvas);
    }
    this.canvas.dataset['renderer'] = this.renderer.kind;
    this.canvas.addEventListener('webglcontextlost', () => {
      this.canvas.remove();
      this.start(true);
      this.resize(this.size.width, this.size.height, this.size.ratio);
      if (this.to) this.renderer.place(this.to, this.to);
      if (this.look) this.renderer.paint(this.look.bytes, this.look.tones);
      this.later();
    });
  }

  resize(width: number, height: number, ratio: number): void {
    const { size } = this;
    if (width === size.width && height === size.height && ratio === size.ratio) return;
    this.size = { width, height, ratio };
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.renderer.resize(width, height, ratio);
    this.later();
  }

  /** Rows must be the same as before for a flight; otherwise the new scene simply appears. */
  show(scene: Scene, fly: boolean): void {
    const nowMs = performance.now();
    const can = fly && !still.matches && this.to?.x.length === scene.x.length;
    this.from = can ? this.between(nowMs) : scene;
    this.to = scene;
    this.moveFromMs = can ? nowMs : -Infinity;
    if (can) this.moving(true);
    this.renderer.place(this.from, this.to);
    this.later();
  }

  paint(bytes: Uint8Array, tones: Tones): void {
    const same = this.look?.bytes.length === bytes.length;
    this.look = { bytes, tones };
    this.blendFromMs = same && !still.matches ? performance.now() : -Infinity;
    this.renderer.paint(bytes, tones);
    this.later();
  }

  destroy(): void {
    cancelAnimationFrame(this.frame);
    this.renderer.destroy();
    this.canvas.remove();
  }

  private between(nowMs: number): Scene {
    const { from, to } = this;
    const move = cubic(Math.min(1, (nowMs - this.moveFromMs) / MOVE_MS));
    if (!from || !to || move >= 1) return to!;
    const mix = (a: Float32Array, b: Float32Array): Float32Array =>
      b.map((end, row) => a[row]! + (end - a[row]!) * move);
    return {
      unit: from.unit + (to.unit - from.unit) * move,
      x: mix(from.x, to.x),
      y: mix(from.y, to.y),
    };
  }

  private later(): void {
    if (!this.frame) this.frame = requestAnimationFrame((ms) => this.step(ms));
  }

  private step(nowMs: number): void {
    this.frame = 0;
    const moved = Math.min(1, Math.max(0, (nowMs - this.moveFromMs) / MOVE_MS));
    const blended = Math.min(1, Math.max(0, (nowMs - this.blendFromMs) / BLEND_MS));
    this.renderer.draw(cubic(moved), blended);
    this.onFrame?.(nowMs);
    if (moved < 1 || blended < 1) this.later();
    if (moved >= 1 && this.moveFromMs !== -Infinity) {
      this.moveFromMs = -Infinity;
      this.from = this.to;
      if (this.to) this.renderer.place(this.to, this.to);
      this.moving(false);
    }
  }
}

function bestRenderer(canvas: HTMLCanvasElement): UnitRenderer {
  try {
    return new WebGlRenderer(canvas);
  } catch {
    return new CanvasRenderer(document.createElement('canvas'));
  }
}
