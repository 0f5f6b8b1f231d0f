// The binary messages of /v1/live, read back. Pure; the format is that of docs/live.md.
//
// A message is a row of frames `[u32 length][u8 kind][u8 field][u32 tick][body]`, little-endian, and
// ends with a TICK: what came before it belongs together.

export const TICK = 0;
export const WHOLE = 1;
export const DELTA = 2;
export const TABLE = 3;
export const PATCH = 4;
export const NODES_TABLE = 250;
export const JOBS_TABLE = 251;
export const NEWS_TABLE = 252;

const HEAD_BYTES = 10;

export interface Frame {
  kind: number;
  field: number;
  tick: number;
  body: Uint8Array<ArrayBuffer>;
}

/** Throws where a message is cut off or says a length that it has not. */
export function framesIn(message: ArrayBuffer): Frame[] {
  const view = new DataView(message);
  const frames: Frame[] = [];
  let at = 0;
  while (at < message.byteLength) {
    if (at + HEAD_BYTES > message.byteLength) throw new Error('a live message is cut off');
    const end = at + 4 + view.getUint32(at, true);
    if (end < at + HEAD_BYTES || end > message.byteLength)
      throw new Error('a live frame has a wrong length');
    frames.push({
      kind: view.getUint8(at + 4),
      field: view.getUint8(at + 5),
      tick: view.getUint32(at + 6, true),
      body: new Uint8Array(message, at + HEAD_BYTES, end - at - HEAD_BYTES),
    });
    at = end;
  }
  return frames;
}

/** Unpacked by the browser itself, off this thread where it can. */
export async function inflated(body: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const unpacker = new DecompressionStream('deflate-raw');
  const writer = unpacker.writable.getWriter();
  // A broken body fails the read below; the writer's own complaint would be a second one.
  writer.write(body).catch(() => undefined);
  writer.close().catch(() => undefined);
  return new Uint8Array(await new Response(unpacker.readable).arrayBuffer());
}

/** Unix ms of a TICK, and the journal's sequence then. */
export function momentOf(body: Uint8Array): { atMs: number; seq: number } {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  return { atMs: Number(view.getBigUint64(0, true)), seq: Number(view.getBigUint64(8, true)) };
}
