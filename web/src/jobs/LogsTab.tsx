// One member's log: follows the end until one scrolls away from it, wraps, finds, keeps colours.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import { isLive } from '../api/store';
import type { JobView } from '../api/types';
import { t } from '../i18n';
import { plainText, PLAIN, spans, type Span, type Style } from '../logs/ansi';
import { lineAt, LINES_MAX, rowsBefore, search } from '../logs/buffer';
import { Follower, type LogState } from '../logs/follow';
import { query, setQuery } from '../router';
import { Icon } from '../ui/Icon';
import { Empty } from '../ui/parts';
import { store, stored } from '../ui/stored';

const ROW = 19; // px, as in the style sheet
const OVER = 20;
const END_PX = 12; // so near the end counts as there

function useLog(
  job: JobView,
  member: number,
): { state: LogState | null; follower: Follower | null } {
  const [state, setState] = useState<LogState | null>(null);
  const follower = useRef<Follower | null>(null);
  const live = useRef(true);
  live.current = isLive(job);
  // When the job ends, one more round fetches what was written last.
  useEffect(() => {
    setState(null);
    const made = new Follower(job.id, member, () => live.current, setState);
    follower.current = made;
    return () => made.stop();
  }, [job.id, member, job.attempt, isLive(job)]);
  return { state, follower: follower.current };
}

export function LogsTab({ job }: { job: JobView }) {
  const member = Math.min(Number(query.value.get('member')) || 0, job.members - 1);
  const { state, follower } = useLog(job, member);
  const [wrap, setWrap] = useState(stored('wrap', ['0', '1']) !== '0');
  const [text, setText] = useState('');
  const [at, setAt] = useState(0);
  const lines = useMemo(() => state?.buffer.shown() ?? [], [state]);
  const plain = useMemo(() => lines.map(plainText), [lines]);
  const found = useMemo(() => search(plain, text), [plain, text]);
  const current = found.length ? Math.min(at, found.length - 1) : -1;
  const step = (by: number): void =>
    setAt((current + by + found.length) % Math.max(1, found.length));
  return (
    <>
      <div class="toolbar plain">
        {job.members > 1 && <MemberSelect job={job} member={member} />}
        <div class="find">
          <Icon name="search" size={14} />
          <input
            type="search"
            value={text}
            placeholder={t('logs.search')}
            aria-label={t('logs.search')}
            onInput={(event) => {
              setText(event.currentTarget.value);
              setAt(Number.MAX_SAFE_INTEGER); // the newest match first
            }}
            onKeyDown={(event) => {
              if (event.key === 'Enter') step(event.shiftKey ? 1 : -1);
              if (event.key === 'Escape') setText('');
            }}
          />
          {text && (
            <span>
              {found.length
                ? t('logs.matches', { at: current + 1, n: found.length })
                : t('logs.noMatch')}
            </span>
          )}
          <button
            type="button"
            aria-label={t('logs.prev')}
            disabled={!found.length}
            onClick={() => step(-1)}
          >
            <Icon name="up" size={14} />
          </button>
          <button
            type="button"
            aria-label={t('logs.next')}
            disabled={!found.length}
            onClick={() => step(1)}
          >
            <Icon name="down" size={14} />
          </button>
        </div>
        <label class="check">
          <input
            type="checkbox"
            checked={wrap}
            onChange={() => {
              setWrap(!wrap);
              store('wrap', wrap ? '0' : '1');
            }}
          />
          {t('logs.wrap')}
        </label>
        <span class="grow" />
        {state && state.buffer.forgotten > 0 && (
          <span class="quiet">{t('logs.forgot', { n: LINES_MAX })}</span>
        )}
      </div>
      {state?.loaded && !lines.length ? (
        <Empty title={t('logs.empty')}>
          <p>{job.running_ms ? t('logs.emptyText') : t('logs.notStarted')}</p>
        </Empty>
      ) : (
        <Lines
          lines={lines}
          plain={plain}
          wrap={wrap}
          find={text}
          target={current < 0 ? -1 : found[current]!}
          forgotten={state?.buffer.forgotten ?? 0}
          atStart={state?.atStart ?? true}
          earlier={() => follower?.earlier() ?? Promise.resolve(0)}
        />
      )}
    </>
  );
}

function MemberSelect({ job, member }: { job: JobView; member: number }) {
  return (
    <label class="select">
      {t('logs.member')}
      <select
        value={member}
        onChange={(event) => {
          const { value } = event.currentTarget;
          setQuery({ member: value === '0' ? null : value });
        }}
      >
        {Array.from({ length: job.members }, (_, rank) => (
          <option key={rank} value={rank}>
            {rank}
            {job.seats[rank] ? ` · ${job.seats[rank].node}` : ''}
          </option>
        ))}
      </select>
    </label>
  );
}

interface LinesProps {
  lines: readonly string[];
  plain: readonly string[];
  wrap: boolean;
  find: string;
  /** The line to be in sight, or -1. */
  target: number;
  forgotten: number;
  atStart: boolean;
  earlier: () => Promise<number>;
}

/** Width of one character of the log's font, px. */
function charWidth(node: HTMLElement): number {
  const probe = document.createElement('span');
  probe.textContent = '0'.repeat(100);
  probe.style.position = 'absolute';
  node.append(probe);
  const width = probe.getBoundingClientRect().width / 100;
  probe.remove();
  return width || 8;
}

function Lines(props: LinesProps) {
  const { lines, plain, wrap, find, target } = props;
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600, columns: 0 });
  const [following, setFollowing] = useState(true);
  const seen = useRef(lines.length);
  // Numbers only when they are the file's own: from the tail alone nobody knows them.
  const gutter = props.atStart ? String(lines.length + props.forgotten).length + 3 : 2;
  const width = wrap ? Math.max(20, view.columns - gutter) : 0;
  const before = useMemo(() => rowsBefore(plain, view.columns ? width : 0), [plain, width]);
  const rows = before.at(-1) ?? 0;
  const total = lines.length + props.forgotten;

  useEffect(() => {
    const node = box.current!;
    const char = charWidth(node);
    const look = (): void => {
      const { scrollTop: top, clientHeight: height, clientWidth } = node;
      setView({ top, height, columns: Math.floor((clientWidth - 24) / char) });
    };
    const scrolled = (): void => {
      look();
      setFollowing(node.scrollTop + node.clientHeight >= node.scrollHeight - END_PX);
    };
    const watch = new ResizeObserver(look);
    watch.observe(node);
    node.addEventListener('scroll', scrolled, { passive: true });
    return () => {
      watch.disconnect();
      node.removeEventListener('scroll', scrolled);
    };
  }, []);

  useEffect(() => {
    if (!following) return;
    box.current!.scrollTop = rows * ROW + 1000;
    seen.current = total;
  }, [rows, total, following, view.height]);

  useEffect(() => {
    if (target < 0) return;
    setFollowing(false);
    box.current!.scrollTop = before[target]! * ROW - view.height / 2;
  }, [target, find]);

  const first = Math.max(0, lineAt(before, Math.floor(view.top / ROW)) - OVER);
  const last = Math.min(
    lines.length,
    lineAt(before, Math.ceil((view.top + view.height) / ROW)) + OVER,
  );
  const more = async (): Promise<void> => {
    const fromEnd = box.current!.scrollHeight - box.current!.scrollTop;
    if (!(await props.earlier())) return;
    requestAnimationFrame(() => (box.current!.scrollTop = box.current!.scrollHeight - fromEnd));
  };
  return (
    <div class="log-room">
      <div class="log" ref={box} tabIndex={0} role="log" aria-live="off" aria-label={t('job.logs')}>
        {!props.atStart && view.top < 400 && (
          <button type="button" class="button log-earlier" onClick={() => void more()}>
            {t('logs.earlier')}
          </button>
        )}
        <div class="log-lines" style={{ height: `${rows * ROW}px` }}>
          <div style={{ transform: `translateY(${(before[first] ?? 0) * ROW}px)` }}>
            {lines.slice(first, last).map((line, i) => (
              <LogLine
                key={first + i + props.forgotten}
                n={props.atStart ? first + i + 1 + props.forgotten : 0}
                line={line}
                style={styleBefore(lines, first + i)}
                rows={before[first + i + 1]! - before[first + i]!}
                gutter={gutter}
                find={find}
                target={first + i === target}
                wrap={wrap}
              />
            ))}
          </div>
        </div>
      </div>
      {!following && (
        <button type="button" class="button log-end" onClick={() => setFollowing(true)}>
          <Icon name="down" size={14} />
          {total > seen.current ? t('logs.paused', { n: total - seen.current }) : t('logs.toEnd')}
        </button>
      )}
    </div>
  );
}

const LOOK_BACK = 40;

/** The colour that a line begins with was set by one of the few lines before it, if by any. */
function styleBefore(lines: readonly string[], at: number): Style {
  let style = PLAIN;
  for (let i = Math.max(0, at - LOOK_BACK); i < at; i++) {
    if (lines[i]!.includes('\x1b')) style = spans(lines[i]!, style).style;
  }
  return style;
}

interface LogLineProps {
  n: number;
  line: string;
  style: Style;
  rows: number;
  gutter: number;
  find: string;
  target: boolean;
  wrap: boolean;
}

function LogLine(props: LogLineProps) {
  const found = spans(props.line, props.style).spans;
  return (
    <div
      class={`log-line ${props.target ? 'target' : ''} ${props.wrap ? 'wrap' : ''}`}
      style={{ height: `${props.rows * ROW}px`, paddingLeft: `${props.gutter}ch` }}
    >
      {props.n > 0 && <i style={{ width: `${props.gutter - 1}ch` }}>{props.n}</i>}
      {found.map((span, i) => (
        <Ansi key={i} span={span} find={props.find} />
      ))}
    </div>
  );
}

export function Ansi({ span, find }: { span: Span; find: string }) {
  const { fg, bg, bold, dim, italic, underline } = span.style;
  const names = [
    typeof fg === 'number' ? `fg${fg}` : '',
    typeof bg === 'number' ? `bg${bg}` : '',
    bold ? 'bold' : '',
    dim ? 'dim' : '',
    italic ? 'italic' : '',
    underline ? 'underline' : '',
  ];
  const style = {
    ...(typeof fg === 'string' ? { color: fg } : {}),
    ...(typeof bg === 'string' ? { background: bg } : {}),
  };
  return (
    <span class={names.filter(Boolean).join(' ')} style={style}>
      {find ? marked(span.text, find) : span.text}
    </span>
  );
}

function marked(text: string, find: string) {
  const exact = find !== find.toLowerCase();
  const where = exact ? text : text.toLowerCase();
  const parts = [];
  let at = 0;
  for (let hit = where.indexOf(find); hit >= 0; hit = where.indexOf(find, at)) {
    parts.push(text.slice(at, hit), <mark key={hit}>{text.slice(hit, hit + find.length)}</mark>);
    at = hit + find.length;
  }
  parts.push(text.slice(at));
  return parts;
}
