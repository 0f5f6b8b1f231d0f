// A long table of which only the rows in sight exist. Row heights are fixed, so the place of a row
// is a multiplication; spacer rows keep the scroll bar honest and aria-rowcount tells the length.

import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';

export interface Column<R> {
  key: string;
  title: string;
  /** CSS width; the rest share what is left. */
  width?: string;
  number?: boolean;
  cell: (row: R) => ComponentChildren;
}

const HEAD_PX = 32;
const OVER = 8; // rows beyond the edges, so that a flick shows no gap

interface Props<R> {
  rows: readonly R[];
  columns: readonly Column<R>[];
  rowHeight: number;
  keyOf: (row: R) => string;
  label: string;
  hrefOf?: (row: R) => string | null;
  selected?: ((row: R) => boolean) | undefined;
  nearEnd?: () => void;
  /** Told the rows in sight whenever they are others. */
  inSight?: (keys: readonly string[]) => void;
  foot?: ComponentChildren;
}

export function VirtualTable<R>(props: Props<R>) {
  const { rows, columns, rowHeight } = props;
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 800 });
  useEffect(() => {
    const node = box.current;
    if (!node) return;
    const look = (): void => {
      setView({ top: node.scrollTop, height: node.clientHeight });
      if (node.scrollTop + node.clientHeight > node.scrollHeight - 400) props.nearEnd?.();
    };
    const watch = new ResizeObserver(look);
    watch.observe(node);
    node.addEventListener('scroll', look, { passive: true });
    return () => {
      watch.disconnect();
      node.removeEventListener('scroll', look);
    };
  }, [props.nearEnd]);
  const first = Math.max(0, Math.floor(view.top / rowHeight) - OVER);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / rowHeight) + OVER);
  const shown = rows.slice(first, last);
  /** Up and down go from link to link; a row that does not exist yet is scrolled to first. */
  const walk = (event: KeyboardEvent): void => {
    const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    const node = box.current;
    if (!step || !node || !props.hrefOf || (event.target as Element).tagName === 'SELECT') return;
    const here = (event.target as Element).closest('tr')?.getAttribute('aria-rowindex');
    const from = here ? Number(here) - 2 : step > 0 ? first - 1 + (first ? OVER : 0) : rows.length;
    const to = Math.min(rows.length - 1, Math.max(0, from + step));
    const top = to * rowHeight;
    if (top < node.scrollTop) node.scrollTop = top;
    const room = node.clientHeight - HEAD_PX - rowHeight;
    if (top > node.scrollTop + room) node.scrollTop = top - room;
    setView({ top: node.scrollTop, height: node.clientHeight });
    requestAnimationFrame(() =>
      node
        .querySelector<HTMLElement>(`tr[aria-rowindex="${to + 2}"] .row-link`)
        ?.focus({ preventScroll: true }),
    );
    event.preventDefault();
  };
  const keys = props.inSight ? shown.map(props.keyOf) : [];
  useEffect(() => props.inSight?.(keys), [keys.join(' ')]);
  return (
    <div
      class="table-box"
      ref={box}
      tabIndex={0}
      role="region"
      aria-label={props.label}
      onKeyDown={walk}
    >
      <table class="table" aria-rowcount={rows.length + 1}>
        <colgroup>
          {columns.map(({ key, width }) => (
            <col key={key} style={width ? { width } : {}} />
          ))}
        </colgroup>
        <thead>
          <tr aria-rowindex={1}>
            {columns.map(({ key, title, number }) => (
              <th key={key} scope="col" class={number ? 'number' : ''}>
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          <tr class="spacer" aria-hidden="true" style={{ height: `${first * rowHeight}px` }} />
          {shown.map((row, i) => (
            <Row key={props.keyOf(row)} row={row} index={first + i + 2} {...props} />
          ))}
          <tr
            class="spacer"
            aria-hidden="true"
            style={{ height: `${(rows.length - last) * rowHeight}px` }}
          />
        </tbody>
      </table>
      {props.foot}
    </div>
  );
}

function Row<R>(props: Props<R> & { row: R; index: number }) {
  const { row, columns, rowHeight } = props;
  const href = props.hrefOf?.(row) ?? null;
  return (
    <tr
      aria-rowindex={props.index}
      class={`${href ? 'link' : ''} ${props.selected?.(row) ? 'selected' : ''}`}
      style={{ height: `${rowHeight}px` }}
    >
      {columns.map(({ key, number, cell }, i) => (
        <td key={key} class={number ? 'number' : ''}>
          {href && i === 0 ? (
            <a class="row-link" href={href}>
              {cell(row)}
            </a>
          ) : (
            cell(row)
          )}
        </td>
      ))}
    </tr>
  );
}
