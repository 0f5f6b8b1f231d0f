// Names above groups. Ordinary text, so that it is sharp, selectable and read aloud.

import { useMemo } from 'preact/hooks';

import { nodes } from '../api/store';
import { percent } from '../format';
import { t, type Key } from '../i18n';
import { devices } from '../words';
import type { Frame, Layout } from './layout';
import { LOOSE, type Grouping, type Titled } from './spec';
import type { Units } from './units';

const NOTE_WIDTH_MIN = 150;
const COUNT_WIDTH_MIN = 84;
const COUNT_WIDTH = 34;
const LETTER_WIDTH = 7.3; // of the mono face at 12 px

interface Props {
  drawn: { units: Units; grouping: Grouping; made: Layout };
  margin: number;
}

export function Labels({ drawn, margin }: Props) {
  const { units, grouping, made } = drawn;
  const held = useMemo(
    () =>
      grouping.groups.map((group) => {
        let [total, held] = [0, 0];
        for (const cell of group.cells) {
          for (const row of cell) {
            const weight = units.weight?.[row] ?? 1;
            total += weight;
            if (units.job[row]! >= 0) held += weight;
          }
        }
        return { total, held };
      }),
    [grouping, units],
  );
  return (
    <div class="labels">
      {made.frames
        .filter((frame) => frame.labelled)
        .map((frame) => {
          const group = grouping.groups[frame.group]!;
          const place = { left: `${frame.x + margin}px`, top: `${frame.y + margin}px` };
          if (made.shape === 'bars') {
            return (
              <BarLabel
                key={group.key}
                group={group}
                frame={frame}
                held={held[frame.group]!}
                place={place}
                margin={margin}
              />
            );
          }
          return (
            <div
              key={group.key}
              class={`label ${made.shape}`}
              style={{ ...place, width: `${frame.width}px` }}
            >
              <Title group={group} width={frame.width} />
              {frame.width >= NOTE_WIDTH_MIN && <Note group={group} shape={made.shape} />}
              <span class="grow" />
              {frame.width >= COUNT_WIDTH_MIN && <b>{rightOf(made.shape, held[frame.group]!)}</b>}
            </div>
          );
        })}
    </div>
  );
}

function rightOf(shape: string, { held, total }: { held: number; total: number }): string {
  if (shape === 'shelf') return total.toLocaleString();
  if (shape === 'cards') return t('fleet.seats', { used: held, total });
  return percent(total ? held / total : 0);
}

function Title({ group, width }: { group: Titled; width: number }) {
  const text = wording(group.title);
  if (group.href) {
    return (
      <a class="mono" href={group.href} title={text}>
        {shortened(text, width >= COUNT_WIDTH_MIN ? width - COUNT_WIDTH : width)}
      </a>
    );
  }
  return <strong title={text}>{text}</strong>;
}

function Note({ group, shape }: { group: Titled; shape: string }) {
  const state = shape === 'cards' ? nodes.value?.find((one) => one.id === group.key)?.state : null;
  if (state === 'lost') return <em class="bad">{t('state.lost')}</em>;
  if (state === 'cordoned') return <em class="warn">{t('state.draining')}</em>;
  return <em>{group.note || group.models.join(', ')}</em>;
}

/** A job's name without its first words, as far as there is room: its end is what tells it apart. */
export function shortened(id: string, width: number): string {
  const words = id.split('-');
  while (words.length > 1 && words.join('-').length * LETTER_WIDTH > width) words.shift();
  return words.join('-');
}

/** Names of the yard stand as they are; ours come from the catalogue. */
function wording(title: string): string {
  if (!title.startsWith(LOOSE)) return title;
  const state = title.slice(LOOSE.length);
  return state
    ? t(`state.${state}` as Extract<Key, `state.${string}`> as 'state.free')
    : t('fleet.notAllocated');
}

interface BarProps {
  group: Titled;
  frame: Frame;
  held: { held: number; total: number };
  place: { left: string; top: string };
  margin: number;
}

function BarLabel({ group, frame, held, place, margin }: BarProps) {
  const loose = group.title.startsWith(LOOSE);
  const { quota } = group;
  const over = quota !== undefined && held.total > quota;
  return (
    <>
      <div class="label bar" style={{ ...place, height: `${frame.height}px` }}>
        <strong title={wording(group.title)}>{wording(group.title)}</strong>
        <span>
          {loose || quota === undefined
            ? devices(held.total)
            : t('fleet.ofQuota', { held: held.total, quota })}
          {quota !== undefined && quota > 0 && (
            <b class={over ? 'warn' : ''}> {percent(held.total / quota)}</b>
          )}
        </span>
      </div>
      {!Number.isNaN(frame.quota) && (
        <i
          class="quota"
          title={t('fleet.quota', { n: quota ?? 0 })}
          style={{
            left: `${frame.quota + margin}px`,
            top: `${frame.y + margin - 4}px`,
            height: `${frame.height + 8}px`,
          }}
        />
      )}
    </>
  );
}
