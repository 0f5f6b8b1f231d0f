// The one line to /v1/live: columns come in, moments come out.
//
// A line that breaks is taken up again where it broke (`since`), with the wait between tries growing
// to 8 s. A hidden tab lets go after a while and catches up when it is seen again.

import { signal } from '@preact/signals';

import { Columns, type Hello, type Field, type Moment, type News } from './liveMoment';

const RETRY_MS = 500;
const RETRY_MS_MAX = 8_000;
const SILENCE_FACTOR = 3; // so many heartbeats may fail before the line counts as dead
const BASE = ['state', 'job', 'idle', 'util'];

export type Line = 'wait' | 'on' | 'off' | 'paused';

export const line = signal<Line>('wait');
/** The newest moment of all. */
export const newest = signal<Moment | null>(null);
export const schema = signal<readonly Field[]>([]);

class LiveSocket {
  private socket: WebSocket | null = null;
  private columns: Columns | null = null;
  private epoch = '';
  private fields: readonly string[] = BASE;
  private waitMs = RETRY_MS;
  private retry = 0;
  private watchdog = 0;
  private heartbeatMs = 5_000;
  private work: Promise<void> = Promise.resolve();
  /** Told what the journal said between two moments. */
  onNews: (news: News) => void = () => undefined;
  /** For tests and measurements: ms on this thread for each message. */
  readonly costs: number[] = [];

  /** Columns beyond the usual ones; all of them for as long as the page is open. */
  want(names: readonly string[]): void {
    const all = [...new Set([...this.fields, ...names])];
    if (all.length === this.fields.length) return;
    this.fields = all;
    if (this.socket?.readyState === WebSocket.OPEN && this.columns) {
      this.socket.send(JSON.stringify({ fields: all }));
    }
  }

  get skipped(): number {
    return this.columns?.skipped ?? 0;
  }

  open(): void {
    clearTimeout(this.retry);
    this.drop();
    const url = new URL('/v1/live', window.location.href);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    url.searchParams.set('fields', this.fields.join(','));
    if (this.columns && this.columns.tick >= 0) {
      url.searchParams.set('epoch', this.epoch);
      url.searchParams.set('since', String(this.columns.tick));
    }
    const asked = this.fields;
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    socket.onmessage = (event: MessageEvent<string | ArrayBuffer>) => {
      if (this.socket !== socket) return;
      this.listen();
      const { data } = event;
      this.work = this.work.then(() => this.take(socket, data));
      if (typeof data === 'string' && asked.length !== this.fields.length) {
        socket.send(JSON.stringify({ fields: this.fields })); // chosen while the line was made
      }
    };
    socket.onclose = () => {
      if (this.socket === socket) this.lost();
    };
    this.listen();
  }

  close(): void {
    clearTimeout(this.retry);
    this.drop();
    line.value = 'paused';
  }

  private drop(): void {
    clearTimeout(this.watchdog);
    const { socket } = this;
    this.socket = null;
    socket?.close();
  }

  private listen(): void {
    clearTimeout(this.watchdog);
    this.watchdog = window.setTimeout(() => this.lost(), SILENCE_FACTOR * this.heartbeatMs);
  }

  private lost(): void {
    this.drop();
    line.value = 'off';
    this.retry = window.setTimeout(() => this.open(), this.waitMs * (0.5 + Math.random()));
    this.waitMs = Math.min(RETRY_MS_MAX, this.waitMs * 2);
  }

  private async take(socket: WebSocket, data: string | ArrayBuffer): Promise<void> {
    if (this.socket !== socket) return;
    try {
      if (typeof data === 'string') this.greet(JSON.parse(data) as Hello);
      else if (this.columns) {
        const { moment, news } = await this.columns.take(data);
        if (this.socket !== socket) return;
        const beganMs = performance.now();
        newest.value = moment;
        line.value = 'on';
        this.waitMs = RETRY_MS;
        this.onNews(news);
        this.costs.push(performance.now() - beganMs);
        if (this.costs.length > 600) this.costs.shift();
      }
    } catch (error) {
      console.warn('live data did not fit, beginning anew:', error);
      this.columns = null;
      this.lost();
    }
  }

  private greet(hello: Hello): void {
    this.heartbeatMs = hello.heartbeat_ms;
    if (hello.epoch === this.epoch && this.columns) return;
    this.epoch = hello.epoch;
    this.columns = new Columns(hello.schema);
    schema.value = hello.schema;
  }
}

export const liveSocket = new LiveSocket();
