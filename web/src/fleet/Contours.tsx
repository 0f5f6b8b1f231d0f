// One contour round a group: what is selected, and what breaks a rule. Its tint lies under the
// squares, its line above them, so that a neighbour never hides a piece of it.
//
// A contour is a wide line round every square, and nothing of it where the squares' own room is:
// squares that lie side by side become one shape, however ragged. Nothing is drawn per device but a
// rectangle in one path.

import { useMemo } from 'preact/hooks';

import { breaches } from './breaches';
import type { Drawn } from './MapView';
import { replayed } from './moment';
import { matching } from './spec';

const SQUARES_MAX = 30_000; // beyond it a contour says nothing: all of it is inside

export interface Paths {
  rule: string;
  chosen: string;
}

export function useContours(drawn: Drawn | null, selected: string, margin: number): Paths {
  const broken = replayed.value ? '' : breaches.value; // of the past nobody knows
  const around = (terms: string): string =>
    drawn && terms ? pathOf(drawn, matching(drawn.units, terms), margin) : '';
  const rule = useMemo(() => around(broken), [drawn?.made, drawn?.units, broken]);
  const chosen = useMemo(() => around(selected), [drawn?.made, drawn?.units, selected]);
  return { rule, chosen };
}

const KINDS = ['rule', 'chosen'] as const;

export function Tints({ paths }: { paths: Paths }) {
  return (
    <svg class="contour" aria-hidden="true">
      {KINDS.map((kind) => paths[kind] && <path class={`contour-${kind}`} d={paths[kind]} />)}
    </svg>
  );
}

export function Lines({ paths }: { paths: Paths }) {
  return (
    <svg class="contour" aria-hidden="true">
      {KINDS.map(
        (kind) =>
          paths[kind] && (
            <g key={kind}>
              <mask
                id={`outside-${kind}`}
                maskUnits="userSpaceOnUse"
                x="0"
                y="0"
                width="100%"
                height="100%"
              >
                <rect width="100%" height="100%" fill="#fff" />
                <path d={paths[kind]} fill="#000" />
              </mask>
              <path
                class={`contour-line contour-${kind}`}
                d={paths[kind]}
                mask={`url(#outside-${kind})`}
              />
            </g>
          ),
      )}
    </svg>
  );
}

function pathOf(drawn: Drawn, on: Uint8Array | null, margin: number): string {
  if (!on) return '';
  const { unit, x, y } = drawn.made;
  // Wide enough to join the devices of a node and neighbouring nodes into one shape.
  const reach = Math.min(margin - 2, Math.max(1.5, unit * 0.24));
  const side = round(unit + 2 * reach);
  const parts: string[] = [];
  for (let row = 0; row < on.length; row++) {
    if (!on[row] || Number.isNaN(x[row]!)) continue;
    const [left, top] = [round(x[row]! + margin - reach), round(y[row]! + margin - reach)];
    parts.push(`M${left} ${top}h${side}v${side}h${-side}z`);
    if (parts.length > SQUARES_MAX) return '';
  }
  return parts.join('');
}

const round = (px: number): number => Math.round(px * 4) / 4;
