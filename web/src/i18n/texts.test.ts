// No visible text stands outside the catalogues: every source is parsed, and words that a page would
// show are looked for in JSX text, in attributes that are read out, and in strings between braces.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { expect, test } from 'vitest';

const ROOT = join(process.cwd(), 'src');
const READ_OUT = new Set([
  'title',
  'aria-label',
  'placeholder',
  'alt',
  'label',
  'aria-description',
]);
/** Names and units that are the same in every language, and commands one types. */
const SAME =
  /^(GPUs?|CPU|Ctrl|Shift|Esc|Enter|Space|gpu|slot|px|GiB|MiB|MHz|CSV|madang\b.*|p\d+|한국어|English|[a-z])$/;

const sources = (readdirSync(ROOT, { recursive: true }) as string[]).filter(
  (name) => name.endsWith('.tsx') && !name.includes('.test.'),
);

const isWords = (text: string): boolean => {
  const words = text.trim().replace(/&\w+;/g, '');
  return /\p{L}/u.test(words) && !SAME.test(words);
};

export function textsOutside(source: string): string[] {
  const file = ts.createSourceFile(
    'a.tsx',
    source,
    ts.ScriptTarget.ESNext,
    true,
    ts.ScriptKind.TSX,
  );
  const found: string[] = [];
  const strings = (node: ts.Node): void => {
    if (ts.isStringLiteralLike(node) && isWords(node.text)) found.push(node.text);
    else if (ts.isTemplateExpression(node)) {
      for (const part of [node.head, ...node.templateSpans.map((span) => span.literal)]) {
        if (isWords(part.text)) found.push(part.text);
      }
    } else if (ts.isConditionalExpression(node)) [node.whenTrue, node.whenFalse].forEach(strings);
    else if (ts.isParenthesizedExpression(node)) strings(node.expression);
    else if (ts.isBinaryExpression(node))
      [node.left, node.right].filter(shown(node)).forEach(strings);
  };
  // `a === 'x' && 'words'`: of a comparison nothing is shown, of && and ?? and + the sides are.
  const shown = (node: ts.BinaryExpression) => (): boolean =>
    [
      ts.SyntaxKind.AmpersandAmpersandToken,
      ts.SyntaxKind.BarBarToken,
      ts.SyntaxKind.QuestionQuestionToken,
      ts.SyntaxKind.PlusToken,
    ].includes(node.operatorToken.kind);
  const visit = (node: ts.Node): void => {
    if (ts.isJsxText(node) && isWords(node.text)) found.push(node.text.trim());
    if (ts.isJsxAttribute(node) && READ_OUT.has(node.name.getText(file)) && node.initializer) {
      if (ts.isStringLiteral(node.initializer)) strings(node.initializer);
      else if (ts.isJsxExpression(node.initializer) && node.initializer.expression) {
        strings(node.initializer.expression);
      }
    }
    const inElement = ts.isJsxExpression(node) && !ts.isJsxAttribute(node.parent);
    if (inElement && node.expression) strings(node.expression);
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

test('there are sources to look at', () => {
  expect(sources.length).toBeGreaterThan(25);
});

test.each(sources)('%s shows nothing that is not in the catalogues', (name) => {
  expect(textsOutside(readFileSync(join(ROOT, name), 'utf8'))).toEqual([]);
});

test.each([
  ['<p>Hello</p>', ['Hello']],
  ['<p title="Hello there">{t("x")}</p>', ['Hello there']],
  ['<p>{a ? "Yes" : t("no")}</p>', ['Yes']],
  ['<p>{a && "Words"}</p>', ['Words']],
  ['<p>{`${n} things`}</p>', [' things']],
  ['<p class="words">{a === "x" && t("y")}</p>', []],
  ['<p>{n}, GPU</p>', [', GPU']],
])('in %s it finds %j', (source, words) => {
  const found = textsOutside(`const a = ${source};`);
  expect(found.map((one) => one.trim())).toEqual(words.map((one) => one.trim()));
});
