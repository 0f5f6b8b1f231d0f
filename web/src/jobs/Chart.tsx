// One plot of one reported number, a line per chosen member.

import { effect } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

import { clock, figure } from '../format';
import { shown } from '../ui/theme';
import { aligned, thinned, type Axis, type Points } from './series';

const HEIGHT = 168;

export interface Line {
  member: number;
  points: Points;
}

function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** A member's colour: the first is the accent, the rest go round the categories. */
export const colorOf = (at: number): string => (at === 0 ? 'accent' : `cat${at % 8}`);

function options(width: number, axis: Axis, members: readonly number[]): uPlot.Options {
  const font = `11px ${token('sans') || 'sans-serif'}`;
  const grid = { stroke: token('line'), width: 1 };
  const common = { stroke: token('text3'), font, grid, ticks: { show: false } };
  const time = axis === 'time';
  return {
    width,
    height: HEIGHT,
    padding: [10, 14, 0, 0],
    cursor: { sync: { key: 'metrics' }, points: { size: 7 }, y: false },
    legend: { show: false },
    scales: { x: { time } },
    axes: [
      {
        ...common,
        space: 80,
        size: 26,
        values: (_, ticks) =>
          ticks.map((x) => (time ? clock(x * 1000, Date.now()) : x.toLocaleString())),
      },
      { ...common, size: 58, space: 34, values: (_, ticks) => ticks.map(figure) },
    ],
    series: [
      {},
      ...members.map((member, at) => ({
        label: String(member),
        stroke: token(colorOf(at)),
        width: 1.5,
        spanGaps: true,
        points: { show: false },
      })),
    ],
  };
}

export function Chart(props: {
  title: string;
  lines: readonly Line[];
  axis: Axis;
  tell: (values: { x: number; y: number } | null) => void;
}) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const now = useRef(props);
  now.current = props;
  const members = props.lines.map((line) => line.member);

  useEffect(() => {
    const node = host.current!;
    const build = (): void => {
      plot.current?.destroy();
      const made = options(node.clientWidth, now.current.axis, members);
      made.hooks = {
        setCursor: [
          (u) => {
            const at = u.cursor.idx;
            const x = at === null || at === undefined ? undefined : u.data[0][at];
            const y = at === null || at === undefined ? undefined : u.data[1]?.[at];
            const both = typeof x === 'number' && typeof y === 'number';
            now.current.tell(both ? { x, y } : null);
          },
        ],
      };
      plot.current = new uPlot(made, drawn(now.current.lines, node.clientWidth), node);
    };
    const stop = effect(() => {
      node.dataset['theme'] = shown.value; // built again in the other theme's colours
      build();
    });
    const watch = new ResizeObserver(() =>
      plot.current?.setSize({ width: node.clientWidth, height: HEIGHT }),
    );
    watch.observe(node);
    return () => {
      stop();
      watch.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [props.axis, members.join()]);

  useEffect(() => {
    plot.current?.setData(drawn(props.lines, host.current!.clientWidth));
  }, [props.lines]);

  return <div class="plot" ref={host} role="img" aria-label={props.title} />;
}

function drawn(lines: readonly Line[], width: number): uPlot.AlignedData {
  return aligned(lines.map((line) => thinned(line.points, Math.max(50, width))));
}
