// Follows one member's log: the newest lines first, then what is written, and earlier parts on demand.
//
// By offset, not by an open stream: a stream per tab would use up the browser's six connections.

import { api, ApiError } from '../api/client';
import { firstLineAt, LogBuffer } from './buffer';

const TAIL_LINES = 2_000;
const PART_BYTES = 1 << 20;
const EARLIER_BYTES = 1 << 18;
const FAST_MS = 700;
const SLOW_MS = 4_000;

export interface LogState {
  buffer: LogBuffer;
  /** Changes with each change of the buffer. */
  version: number;
  loaded: boolean;
  /** True iff the first line of the file is here. */
  atStart: boolean;
  /** The member's log does not exist yet. */
  missing: boolean;
}

export class Follower {
  state: LogState = {
    buffer: new LogBuffer(),
    version: 0,
    loaded: false,
    atStart: true,
    missing: false,
  };
  private start = 0;
  private next = 0;
  private pause = FAST_MS;
  private timer = 0;
  private readonly stopping = new AbortController();

  constructor(
    private readonly job: string,
    private readonly member: number,
    private readonly isLive: () => boolean,
    private readonly changed: (state: LogState) => void,
    private readonly tail = TAIL_LINES,
  ) {
    void this.round();
  }

  stop(): void {
    this.stopping.abort();
    clearTimeout(this.timer);
  }

  private async round(): Promise<void> {
    try {
      if (!document.hidden || !this.state.loaded) await this.read();
    } catch (error) {
      if (this.stopping.signal.aborted) return;
      const missing = error instanceof ApiError && error.status === 404;
      if (missing && !this.state.missing) this.tell({ missing, loaded: true });
      this.pause = SLOW_MS;
    }
    if (this.isLive() || !this.state.loaded) {
      this.timer = window.setTimeout(() => void this.round(), this.pause);
    }
  }

  private async read(): Promise<void> {
    const { signal } = this.stopping;
    if (!this.state.loaded || this.state.missing) {
      const part = await api.log(this.job, this.member, { tail: this.tail }, signal);
      this.next = part.next;
      this.start = Math.max(0, part.next - part.bytes.length);
      this.state.buffer.append(part.bytes);
      this.tell({ loaded: true, missing: false, atStart: this.start === 0 });
      return;
    }
    const span = { offset: this.next, limit: PART_BYTES };
    const part = await api.log(this.job, this.member, span, signal);
    this.next = part.next;
    if (part.bytes.length) {
      this.state.buffer.append(part.bytes);
      this.tell({});
    }
    // A quiet log is asked less and less often.
    this.pause = part.bytes.length ? FAST_MS : Math.min(SLOW_MS, this.pause * 1.3);
    if (part.bytes.length === PART_BYTES) await this.read();
  }

  /** How many lines came in front. */
  async earlier(): Promise<number> {
    if (this.start === 0) return 0;
    const offset = Math.max(0, this.start - EARLIER_BYTES);
    const span = { offset, limit: this.start - offset };
    const part = await api.log(this.job, this.member, span, this.stopping.signal);
    const cut = offset === 0 ? 0 : firstLineAt(part.bytes);
    if (cut === part.bytes.length) return 0; // one line longer than a part: leave it
    const lines = this.state.buffer.prepend(part.bytes.subarray(cut));
    this.start = offset + cut;
    this.tell({ atStart: this.start === 0 });
    return lines;
  }

  private tell(change: Partial<LogState>): void {
    this.state = { ...this.state, ...change, version: this.state.version + 1 };
    this.changed(this.state);
  }
}
