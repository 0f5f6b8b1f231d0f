// Vertex pulling: one device is one texel; six vertices per square find it by gl_VertexID. There are
// no vertex buffers and no instances, which is what makes it fast on software GL too.

import type { Scene, Tones, UnitRenderer } from './renderer';

const VERTEX = `#version 300 es
precision highp float;
precision highp int;
uniform sampler2D uFrom;   // RG: top left corner before
uniform sampler2D uTo;     // RG: top left corner after
uniform sampler2D uBefore; // RGBA: look before
uniform sampler2D uNow;    // RGBA: look now
uniform int uSide;         // texture width
uniform vec2 uUnits;       // size before, after
uniform vec2 uView;        // CSS px
uniform float uMove;
uniform float uBlend;
out vec2 vAt;              // px from the corner
flat out float vUnit;
flat out vec3 vColor;
flat out int vPattern;
flat out float vAlpha;
void main() {
  int row = gl_VertexID / 6;
  int corner = gl_VertexID % 6;
  ivec2 texel = ivec2(row % uSide, row / uSide);
  vec2 at = mix(texelFetch(uFrom, texel, 0).rg, texelFetch(uTo, texel, 0).rg, uMove);
  vec4 before = texelFetch(uBefore, texel, 0);
  vec4 now = texelFetch(uNow, texel, 0);
  int code = int(now.a * 255.0 + 0.5);
  int codeBefore = int(before.a * 255.0 + 0.5);
  vUnit = mix(uUnits.x, uUnits.y, uMove);
  vColor = mix(before.rgb, now.rgb, uBlend);
  vPattern = code & 15;
  vAlpha = mix((codeBefore & 16) != 0 ? 0.16 : 1.0, (code & 16) != 0 ? 0.16 : 1.0, uBlend);
  vec2 side = vec2(corner == 1 || corner == 2 || corner == 4, corner == 2 || corner == 4 || corner == 5);
  vAt = side * vUnit;
  vec2 px = (at + vAt) / uView * 2.0 - 1.0;
  gl_Position = vec4(px.x, -px.y, 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
uniform float uRatio;
uniform vec3 uBackground;
uniform vec3 uEdge;
in vec2 vAt;
flat in float vUnit;
flat in vec3 vColor;
flat in int vPattern;
flat in float vAlpha;
out vec4 outColor;
float soft(float d) { return clamp(0.5 - d * uRatio, 0.0, 1.0); }
float box(vec2 p, float half_, float r) {
  vec2 q = abs(p) - half_ + r;
  return length(max(q, 0.0)) + min(max(q.x, q.y), 0.0) - r;
}
void main() {
  float half_ = vUnit * 0.5;
  vec2 p = vAt - half_;
  float r = min(vUnit * 0.2, 3.0);
  float d = box(p, half_, r);
  float shape = soft(d);
  float line = clamp(vUnit * 0.09, 1.0, 2.0);
  float ring = shape - soft(d + line);
  bool tiny = vUnit < 5.0;
  vec3 color = vColor;
  float a = shape;
  if (vPattern == 0) {                      // running: solid, with a hairline that the lowest keep
    color = mix(color, uEdge, tiny ? 0.22 : 0.4 * (shape - soft(d + 1.0)));
  } else if (vPattern == 1) {                      // held idle: diagonal stripes
    float period = max(3.0, vUnit * 0.34);
    float s = abs(fract((p.x + p.y) / period) - 0.5) * period * 0.7071;
    a = shape * (tiny ? 0.85 : mix(0.3, 1.0, soft(s - period * 0.18)));
  } else if (vPattern == 2) {               // free: outline
    a = tiny ? shape * 0.45 : ring * 0.9;
  } else if (vPattern == 3) {               // reserved: outline and dot
    a = tiny ? shape : max(ring, soft(length(p) - vUnit * 0.17));
  } else if (vPattern == 4) {               // draining: level stripes
    float period = max(3.0, vUnit * 0.3);
    float s = abs(fract(p.y / period + 0.25) - 0.5) * period;
    a = shape * (tiny ? 0.75 : mix(0.18, 1.0, soft(s - period * 0.25)));
  } else if (vPattern == 5) {               // repairing: thick outline and disc
    a = tiny ? shape : max(shape - soft(d + 2.0 * line), soft(length(p) - vUnit * 0.2));
  } else if (vPattern == 8) {               // starting: outline, filling up
    a = tiny ? shape * 0.7 : max(ring, shape * soft(-p.y + vUnit * 0.06) * 0.75);
  } else if (vPattern >= 6) {               // faulty: solid and x; lost: outline and x
    float arm = vUnit * 0.24;
    float x = min(abs(p.x - p.y), abs(p.x + p.y)) * 0.7071 - max(0.6, vUnit * 0.055);
    float cross_ = tiny ? 0.0 : soft(max(x, max(abs(p.x), abs(p.y)) - arm));
    if (vPattern == 6) color = mix(color, uBackground, cross_);
    else a = tiny ? shape : max(ring, cross_);
  }
  a *= vAlpha;
  outColor = vec4(color * a, a);
}`;

const OFF = -1e5; // where squares that are not shown go

export class WebGlRenderer implements UnitRenderer {
  readonly kind = 'webgl2';
  private readonly gl: WebGL2RenderingContext;
  private readonly program: WebGLProgram;
  private readonly textures: Record<'uFrom' | 'uTo' | 'uBefore' | 'uNow', WebGLTexture>;
  private readonly at = new Map<string, WebGLUniformLocation | null>();
  private side = 1;
  private count = 0;
  private units: readonly [number, number] = [1, 1];
  private look: Uint8Array | null = null;
  private tones: Tones = { background: [0, 0, 0], edge: [0, 0, 0] };
  private painted = false;
  private ratio = 1;

  /** Throws when this browser has no WebGL2: the caller then takes the plain canvas. */
  constructor(private readonly canvas: HTMLCanvasElement) {
    const gl = canvas.getContext('webgl2', { antialias: false, alpha: true, depth: false });
    if (!gl) throw new Error('no WebGL2');
    this.gl = gl;
    this.program = link(gl);
    const texture = (): WebGLTexture => gl.createTexture();
    this.textures = { uFrom: texture(), uTo: texture(), uBefore: texture(), uNow: texture() };
    gl.bindVertexArray(gl.createVertexArray());
    gl.useProgram(this.program);
    Object.keys(this.textures).forEach((name, unit) => gl.uniform1i(this.uniform(name), unit));
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  resize(width: number, height: number, ratio: number): void {
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    this.ratio = ratio;
    this.gl.viewport(0, 0, this.canvas.width, this.canvas.height);
  }

  place(from: Scene, to: Scene): void {
    if (to.x.length !== this.count) {
      this.look = null;
      this.painted = false;
    }
    this.count = to.x.length;
    this.side = Math.max(1, Math.ceil(Math.sqrt(this.count)));
    this.units = [from.unit, to.unit];
    this.upload('uFrom', this.corners(from));
    this.upload('uTo', this.corners(to));
  }

  paint(look: Uint8Array, tones: Tones): void {
    this.tones = tones;
    // What was shown is on the card already: the two textures change places.
    const { uBefore, uNow } = this.textures;
    if (this.look && this.painted) Object.assign(this.textures, { uBefore: uNow, uNow: uBefore });
    else this.upload('uBefore', this.texels(look));
    this.upload('uNow', this.texels(look));
    this.look = look;
    this.painted = true;
  }

  draw(move: number, blend: number): void {
    const { gl } = this;
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!this.look || !this.count) return;
    Object.values(this.textures).forEach((texture, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
    });
    gl.uniform1i(this.uniform('uSide'), this.side);
    gl.uniform2f(this.uniform('uUnits'), ...this.units);
    gl.uniform2f(
      this.uniform('uView'),
      this.canvas.width / this.ratio,
      this.canvas.height / this.ratio,
    );
    gl.uniform1f(this.uniform('uMove'), move);
    gl.uniform1f(this.uniform('uBlend'), blend);
    gl.uniform1f(this.uniform('uRatio'), this.ratio);
    for (const [name, [r = 0, g = 0, b = 0]] of [
      ['uBackground', this.tones.background],
      ['uEdge', this.tones.edge],
    ] as const) {
      gl.uniform3f(this.uniform(name), r / 255, g / 255, b / 255);
    }
    gl.drawArrays(gl.TRIANGLES, 0, this.count * 6);
  }

  destroy(): void {
    for (const texture of Object.values(this.textures)) this.gl.deleteTexture(texture);
    this.gl.deleteProgram(this.program);
  }

  private uniform(name: string): WebGLUniformLocation | null {
    if (!this.at.has(name)) this.at.set(name, this.gl.getUniformLocation(this.program, name));
    return this.at.get(name) ?? null;
  }

  private corners(scene: Scene): Float32Array {
    const out = new Float32Array(this.side * this.side * 2);
    for (let row = 0; row < this.count; row++) {
      const hidden = Number.isNaN(scene.x[row]!);
      out[row * 2] = hidden ? OFF : scene.x[row]!;
      out[row * 2 + 1] = hidden ? OFF : scene.y[row]!;
    }
    return out;
  }

  private texels(look: Uint8Array): Uint8Array {
    const out = new Uint8Array(this.side * this.side * 4);
    out.set(look.subarray(0, this.count * 4));
    return out;
  }

  private upload(name: keyof WebGlRenderer['textures'], values: Float32Array | Uint8Array): void {
    const { gl, side } = this;
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.textures[name]);
    for (const key of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
      gl.texParameteri(gl.TEXTURE_2D, key, gl.NEAREST);
    }
    if (values instanceof Float32Array) {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RG32F, side, side, 0, gl.RG, gl.FLOAT, values);
    } else {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, side, side, 0, gl.RGBA, gl.UNSIGNED_BYTE, values);
    }
  }
}

function link(gl: WebGL2RenderingContext): WebGLProgram {
  const program = gl.createProgram();
  for (const [kind, source] of [
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ] as const) {
    const shader = gl.createShader(kind);
    if (!shader) throw new Error('WebGL2 context lost');
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
    gl.deleteShader(shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
    throw new Error(`the unit shader does not link: ${gl.getProgramInfoLog(program) ?? ''}`);
  }
  return program;
}
