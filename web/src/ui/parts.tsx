// The small parts that every page is made of.

import { useSignal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';

import type { Phase } from '../api/types';
import { t } from '../i18n';
import { Icon } from './Icon';

export function Segmented<T extends string>(props: {
  label: string;
  value: T;
  options: readonly { value: T; text: string; off?: string | undefined }[];
  choose: (value: T) => void;
  /** The label is for screen readers only. */
  bare?: boolean;
}) {
  return (
    <div class="segmented" role="group" aria-label={props.label}>
      {!props.bare && (
        <span class="segmented-label" aria-hidden="true">
          {props.label}
        </span>
      )}
      <div class="segmented-options">
        {props.options.map(({ value, text, off }) => (
          <button
            key={value}
            type="button"
            aria-pressed={value === props.value}
            disabled={off !== undefined}
            title={off}
            onClick={() => props.choose(value)}
          >
            {text}
          </button>
        ))}
      </div>
    </div>
  );
}

export function Kpi(props: {
  label: string;
  value: ComponentChildren;
  note?: ComponentChildren;
  tone?: 'bad' | 'ok' | undefined;
}) {
  return (
    <div class="kpi">
      <div class="kpi-label">{props.label}</div>
      <div class="kpi-line">
        <span class={`kpi-value ${props.tone ?? ''}`}>{props.value}</span>
        {props.note !== undefined && props.note !== '' && (
          <span class="kpi-note">{props.note}</span>
        )}
      </div>
    </div>
  );
}

export function PhasePill({ phase, text }: { phase: Phase; text?: string }) {
  return (
    <span class={`pill phase-${phase}`}>
      <i class="phase-mark" />
      {text ?? t(`phase.${phase}`)}
    </span>
  );
}

export function CopyButton({ text, label }: { text: string; label: string }) {
  const copied = useSignal(false);
  const copy = async (): Promise<void> => {
    await navigator.clipboard.writeText(text);
    copied.value = true;
    setTimeout(() => (copied.value = false), 1500);
  };
  return (
    <button type="button" class="button" onClick={() => void copy()} title={text}>
      <Icon name={copied.value ? 'check' : 'copy'} />
      {copied.value ? t('job.copied') : label}
    </button>
  );
}

/** A command to type; a click copies it. */
export function Command({ text }: { text: string }) {
  const copied = useSignal(false);
  const copy = async (): Promise<void> => {
    await navigator.clipboard.writeText(text);
    copied.value = true;
    setTimeout(() => (copied.value = false), 1500);
  };
  return (
    <button type="button" class="command" onClick={() => void copy()} title={t('copy.command')}>
      <code>
        {text.split('\n').map((line) => (
          <span key={line}>{line}</span>
        ))}
      </code>
      <Icon name={copied.value ? 'check' : 'copy'} />
    </button>
  );
}

export function Empty(props: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <div class="empty-squares" aria-hidden="true">
        {Array.from({ length: 8 }, (_, i) => (
          <i key={i} />
        ))}
      </div>
      <h2>{props.title}</h2>
      {props.children}
    </div>
  );
}

export function Dialog(props: {
  title: string;
  close: () => void;
  children: ComponentChildren;
  className?: string;
}) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    ref.current?.showModal();
  }, []);
  return (
    <dialog
      ref={ref}
      class={props.className}
      aria-label={props.title}
      onClose={props.close}
      onClick={(event) => event.target === ref.current && ref.current?.close()}
    >
      <div class="dialog-body">
        <div class="dialog-head">
          <h2>{props.title}</h2>
          <button
            type="button"
            class="icon-button"
            aria-label={t('help.close')}
            onClick={() => ref.current?.close()}
          >
            <Icon name="close" />
          </button>
        </div>
        {props.children}
      </div>
    </dialog>
  );
}

const FLAT = 0.03; // a line that never moves says nothing

export function Sparkline(props: { values: readonly number[]; width: number; height: number }) {
  const { values, width, height } = props;
  const known = values.filter((value) => !Number.isNaN(value));
  if (known.length < 2 || Math.max(...known) - Math.min(...known) < FLAT) return null;
  const step = width / Math.max(1, values.length - 1);
  let path = '';
  let pen = 'M';
  values.forEach((value, i) => {
    if (Number.isNaN(value)) {
      pen = 'M';
      return;
    }
    const y = height - 1 - Math.min(1, Math.max(0, value)) * (height - 2);
    path += `${pen}${(i * step).toFixed(1)} ${y.toFixed(1)}`;
    pen = 'L';
  });
  return (
    <svg class="sparkline" width={width} height={height} aria-hidden="true">
      <path d={path} />
    </svg>
  );
}
