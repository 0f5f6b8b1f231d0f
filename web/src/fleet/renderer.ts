// What draws squares. Two of a kind: WebGL2 (webgl.ts) and a plain canvas (canvas.ts).

export interface Scene {
  /** Size of every square, CSS px. */
  unit: number;
  /** Top left corners, CSS px; NaN: not drawn. */
  x: Float32Array;
  y: Float32Array;
}

/** Colours that all squares share. */
export interface Tones {
  background: readonly number[];
  edge: readonly number[];
}

export interface UnitRenderer {
  readonly kind: 'webgl2' | 'canvas2d';
  resize(width: number, height: number, ratio: number): void;
  /** Where squares fly from and to; both have the same rows. */
  place(from: Scene, to: Scene): void;
  /** (count, 4) bytes, see paint.ts; what was painted before is what it blends from. */
  paint(look: Uint8Array, tones: Tones): void;
  /** `move` 0..1 between the scenes, `blend` 0..1 between the looks. */
  draw(move: number, blend: number): void;
  destroy(): void;
}
