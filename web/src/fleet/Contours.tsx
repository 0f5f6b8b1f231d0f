// One contour round a group, under the squares: what is selected, and what breaks a rule.
//
// A contour is a wide line round every square, then the inside once more: squares that lie side by
// side become one shape, however ragged. Nothing is drawn per device but a rectangle in one path.

import { useMemo } from 'preact/hooks';

import { breaches } from './breaches';
import type { Drawn } from './MapView';
import { matching } from './spec';

const SQUARES_MAX = 30_000; // beyond it a contour says nothing: all of it is inside

interface Props {
  drawn: Drawn;
  selected: string;
  margin: number;
}

export function Contours({ drawn, selected, margin }: Props) {
  const { made, units } = drawn;
  const broken = breaches.value;
  const rules = useMemo(
    () => pathOf(drawn, broken ? matching(units, broken) : null, margin),
    [made, units, broken],
  );
  const chosen = useMemo(
    () => pathOf(drawn, selected ? matching(units, selected) : null, margin),
    [made, units, selected],
  );
  if (!rules && !chosen) return null;
  return (
    <svg class="contour" aria-hidden="true">
      {rules && <Contour kind="rule" path={rules} />}
      {chosen && <Contour kind="chosen" path={chosen} />}
    </svg>
  );
}

function Contour({ kind, path }: { kind: string; path: string }) {
  return (
    <g class={`contour-${kind}`}>
      <path class="contour-line" d={path} />
      <path class="contour-inside" d={path} />
    </g>
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
